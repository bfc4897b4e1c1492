# short: 6.12 newest
# timeout: 600s
# needs: ./test/bypass
# needs: attacker
# The bypass table on this kernel: every way out, under both locks and under each
# alone, as an ordinary user, with no_new_privs and without in turns. The race is
# smaller than outside: the machine is emulated.
. /opt/vm/rows/lib.sh

bypass -test.skip TestRedirectMode -locks both,guard,bpf -connections 600
