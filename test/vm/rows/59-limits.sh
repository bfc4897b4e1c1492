# kernels: 6.1
# timeout: 180s
# A caller's limits, where they are higher than the keeper's, are the command's:
# that is what the keeper has CAP_SYS_RESOURCE for. Without it such a caller is
# refused, and nobody gets less than he had.
. /opt/vm/rows/lib.sh

id caller >/dev/null 2>&1 || useradd --system --no-create-home --groups sallyport caller
limits() {
    prlimit --rtprio=99:99 --memlock=unlimited:unlimited \
        setpriv --reuid=caller --regid=caller --init-groups sallyport exec -- bash -c 'ulimit -H -r; ulimit -H -l'
}
limits >out
[ "$(tr '\n' ' ' <out)" = '99 unlimited ' ] || fail "with the capability: $(tr '\n' ' ' <out)"

unit=/etc/systemd/system/sallyport-keeper.service.d
mkdir -p $unit
printf '[Service]\nCapabilityBoundingSet=~CAP_SYS_RESOURCE\n' >$unit/less.conf
systemctl daemon-reload
systemctl restart sallyport-keeper.service
eventually 60 ready
status=0
limits >out 2>&1 || status=$?
cat out
[ $status != 0 ] && grep -q 'Max ' out || fail "without the capability: exit $status, $(cat out)"
rm -r $unit
systemctl daemon-reload
systemctl restart sallyport-keeper.service
eventually 60 ready
limits >out
userdel caller
detail "CAP_SYS_RESOURCE is needed"
