#!/usr/bin/env bash
# Plants each known bug and demands that the tests notice it: one build with the feature `planted-bugs`, then for each bug the
# tests that must catch it. Prints which did. A bug that nothing catches, or a test that fails without one, is an error.
set -uo pipefail
cd "$(dirname "$0")/.."
export RUST_BACKTRACE=0 PROPTEST_MAX_SHRINK_ITERS=8 PROPTEST_DISABLE_FAILURE_PERSISTENCE=true

# bug | unit tests | tests of the whole
plants=(
    "ack-before-claim||a_worker_that_goes_before_its_claim"
    "update-without-attempt|store::memory::|model::whatever store::the_postgres_store_keeps_every_promise"
    "dedupe-by-position|client::session::|model::whatever"
    "cursor-without-epoch|bus::memory::|model::whatever bus_redis::the_contract_holds"
    "trimmed-dispatch||dispatch_redis::the_contract_holds"
    "counted-blindly|store::memory::|model::whatever store::the_postgres_store_keeps_every_promise"
    "snapshot-first||gateway_meanwhile::"
)

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# run UNIT_FILTERS WHOLE_FILTERS: runs both; what failed is in the log.
run() {
    : >"$log"
    # Filters are words, split on purpose.
    # shellcheck disable=SC2086
    if [ -n "$1" ]; then cargo test --locked --features planted-bugs --lib -- $1 >>"$log" 2>&1 || true; fi
    # shellcheck disable=SC2086
    if [ -n "$2" ]; then cargo test --locked --features planted-bugs --test it -- $2 >>"$log" 2>&1 || true; fi
}

failed() { sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u; }
passed() { grep -c '^test .* \.\.\. ok$' "$log"; }

echo "building, and running every catcher without a bug"
units=$(printf '%s\n' "${plants[@]}" | cut -d'|' -f2 | tr ' ' '\n' | sort -u | tr '\n' ' ')
wholes=$(printf '%s\n' "${plants[@]}" | cut -d'|' -f3 | tr ' ' '\n' | sort -u | tr '\n' ' ')
run "$units" "$wholes"
if [ -n "$(failed)" ] || [ "$(passed)" -eq 0 ]; then
    cat "$log" >&2
    echo "they must pass without a bug" >&2
    exit 1
fi
echo "$(passed) pass"

status=0
for plant in "${plants[@]}"; do
    IFS='|' read -r bug unit whole <<<"$plant"
    PLANTED_BUG=$bug run "$unit" "$whole"
    caught=$(failed)
    if [ -z "$caught" ]; then
        printf '%-24s NOT CAUGHT\n' "$bug"
        tail -20 "$log" >&2
        status=1
        continue
    fi
    first=$bug
    while read -r test; do
        printf '%-24s caught by %s\n' "$first" "$test"
        first=""
    done <<<"$caught"
done
exit $status
