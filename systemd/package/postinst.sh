#!/bin/sh
# After the files of a package are there. dpkg: configure OLD-VERSION; rpm: the
# number of versions that are installed now.
set -e

case "$1" in
configure) if [ -n "$2" ]; then what=upgrade; else what=install; fi ;;
1) what=install ;;
[2-9]*) what=upgrade ;;
# dpkg did not remove it after all: it goes on as it was.
abort-*) what=resume ;;
*) exit 0 ;;
esac

systemd-sysusers sallyport.conf
systemd-tmpfiles --create sallyport.conf

# Whoever disabled a unit finds it disabled after an upgrade.
if [ "$what" = install ]; then
    systemctl enable --quiet sallyport-lock.service sallyport-keeper.service sallyport.service
fi
# Without systemd (an image that is being made) the next boot does the rest.
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
# The lock is never restarted: the keeper takes the gate over as it is, and its
# listeners wait in systemd. The worker follows the keeper by itself.
if [ "$what" = upgrade ]; then
    systemctl try-restart sallyport-keeper.service sallyport.service ||
        echo "sallyport did not come back and the gate is shut: see \"journalctl -u sallyport-keeper -u sallyport\"" >&2
else
    systemctl start sallyport-lock.service sallyport-keeper.service sallyport.service ||
        echo "sallyport does not run: see \"sallyport doctor\" and \"journalctl -u sallyport-keeper\"" >&2
fi
