# short: none
# timeout: 600s
# needs: ./test/bypass
# needs: attacker
# The bypass table on this kernel where no lock is in force, under which each way
# must lead out, and in nft redirect mode.
. /opt/vm/rows/lib.sh

bypass -test.run 'TestBypass|TestRedirectMode' -locks none
