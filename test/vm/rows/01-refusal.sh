# kernels: 5.10
# A kernel below the floor: run, exec and doctor refuse, name what is missing,
# and leave nothing behind.
. /opt/vm/rows/lib.sh

before=$(nft list ruleset; find /sys/fs/cgroup -type d -name '*sallyport*' -o -type d -name 'mcp*'; ls /sys/fs/bpf)
for argv in 'run' 'exec -- true'; do
    status=0
    # The words are arguments.
    # shellcheck disable=SC2086
    timeout 30 sallyport $argv >out 2>&1 || status=$?
    cat out
    [ $status -ne 0 ] && [ $status -ne 124 ] || fail "$argv: exit $status on a kernel below the floor"
    grep -qi 'kernel' out || fail "$argv does not say that it is the kernel: $(cat out)"
    detail "$(head -n 1 out)"
done
if sallyport doctor >out 2>&1; then fail "doctor is content with $(uname -r)"; fi
cat out
grep -q 'kernel' out || fail "doctor does not name the kernel: $(cat out)"
after=$(nft list ruleset; find /sys/fs/cgroup -type d -name '*sallyport*' -o -type d -name 'mcp*'; ls /sys/fs/bpf)
[ "$before" = "$after" ] || fail "left behind: $(diff <(echo "$before") <(echo "$after"))"
