# short: none
# timeout: 180s
# needs: ./pkg/guard
# The nftables table on this kernel, by pkg/guard's tests.
. /opt/vm/rows/lib.sh

gotest pkg-guard -test.skip '^Fuzz'
