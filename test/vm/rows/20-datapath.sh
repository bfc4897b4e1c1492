# short: none
# timeout: 180s
# needs: ./pkg/datapath
# The BPF programs on this kernel: each way in and out, by pkg/datapath's tests.
. /opt/vm/rows/lib.sh

# The one left out compares with a source file.
gotest pkg-datapath -test.skip '^(TestReasonsAreThoseOfThePrograms|Fuzz.*)$'
