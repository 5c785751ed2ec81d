#!/bin/sh
# Tests one kernel and says in one word what became of it: passed, failed, or infrastructure (it tells nothing of what
# the kernel does). Usage: run.sh BZIMAGE OUT [more options of 'kst run']. Ends as kst did.
set -u
[ $# -ge 2 ] || { echo "usage: $0 BZIMAGE OUT [options of kst run]" >&2; exit 2; }
kernel=image:$1 out=$2
shift 2
code=0
verdict=$(kst run --kernel "$kernel" --baseline none --out "$out" --json "$@") || code=$?
case $code in
0) word=passed ;;
1) word=failed ;;
*) word=infrastructure ;; # 3: the harness; 125: no build or boot; 2: how it was called; 130: interrupted
esac
printf '%s (exit %s) %s\n' "$word" "$code" "$verdict"
exit "$code"
