// Sets the chosen colour theme before the first paint. A classic script on purpose: a module would run after it.
"use strict";
{
  let theme = null;
  try {
    theme = localStorage.getItem("milepost.theme");
  } catch {
    // Storage may be switched off; the system's theme is used then.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
