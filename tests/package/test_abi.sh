#!/bin/sh
# test_abi.sh - what the shared libraries offer is compatible with the last release, whose description
# (by abidw) is in tests/package/abi: programs that were built for it go on running.
#
#   test_abi.sh BUILD [--record]      --record: this is a release, describe it
set -eu
build=$1
abi=$(dirname "$0")/abi
status=0
for name in workqueue workqueue-h2o workqueue-remote; do
    library=$build/lib$name.so
    if [ "${2-}" = --record ]; then
        mkdir -p "$abi"
        abidw --no-corpus-path --no-comp-dir-path --headers-dir "$abi/../../../include" \
            --out-file "$abi/lib$name.abi" "$library"
    else
        abidiff --no-added-syms --headers-dir2 "$abi/../../../include" "$abi/lib$name.abi" "$library" ||
            status=1
    fi
done
[ $status -eq 0 ] || echo "test_abi.sh: programs built for the last release would break; see above"
exit $status
