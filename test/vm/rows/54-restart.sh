# kernels: 6.1 6.12 newest
# timeout: 400s
# Restarts of the worker, the keeper and both under 50 requests a second: no
# request is lost, nothing leaks.
. /opt/vm/rows/lib.sh

remember
load_anew mcp-load
meanwhile restarts systemctl restart
load_ended mcp-load
nothing_leaked
none_lost mcp-load
