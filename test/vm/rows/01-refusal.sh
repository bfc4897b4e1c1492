# kernels: 5.10
# A kernel below the floor: run, exec and doctor refuse and name what is missing,
# and leave nothing.
. /opt/vm/rows/lib.sh

kept() {
    nft list ruleset
    find /sys/fs/cgroup -type d \( -name '*sallyport*' -o -name 'mcp*' \)
    ls /sys/fs/bpf
}
before=$(kept)
for argv in 'run' 'exec -- true'; do
    status=0
    # The words are arguments.
    # shellcheck disable=SC2086
    timeout 30 sallyport $argv >out 2>&1 || status=$?
    cat out
    [ $status -eq 1 ] || fail "$argv: exit $status on a kernel below the floor, want 1"
    for what in 'cannot be guarded' 'not supported by this kernel' 'missing: ' 'socket cgroupv2 .*Linux 5.13' 'sallyport doctor says more'; do
        grep -q "$what" out || fail "$argv does not say \"$what\""
    done
done
detail "$(grep -m 1 'missing: ' out), $(grep -m 1 -o 'nf_tables lacks socket cgroupv2' out)"
status=0
sallyport doctor >out 2>&1 || status=$?
cat out
[ $status -eq 1 ] || fail "doctor: exit $status, want 1"
grep -A1 -E '^ *FAIL +kernel' out | grep 'use Linux 6.1 or newer' >/dev/null || fail "doctor does not say which kernel to use"
after=$(kept)
[ "$before" = "$after" ] || fail "left behind: $(diff <(echo "$before") <(echo "$after") | tr '\n' ' ')"
sallyport teardown
