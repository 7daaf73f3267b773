// What the user may do on a cluster, as the server tells with its clusters, and why they may not do the rest.

/** Why somebody may not use a capability on a cluster, or `null` when they may. The server has the last word. */
export function whyNot(access, capability, cluster) {
  if (!access || access.may?.includes(capability)) return null;
  return `It takes the capability ${capability} on ${cluster}, which you do not hold: ${WHO}`;
}

/** Why somebody may not submit on a cluster, or `null` when they may. */
export function whyNoSubmit(access, cluster) {
  if (access?.role !== "viewer") return null;
  return `You may only look at ${cluster}: ${WHO}`;
}

const WHO = "whoever runs Milepost (auth.grants) or issues its tokens (claim clusters) can give it.";
