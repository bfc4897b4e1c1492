#!/bin/sh
# After a package has gone. dpkg: remove | purge | upgrade | …; rpm: the number of
# versions that are left.
set -e

case "$1" in
remove | purge | 0)
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    rm -f /etc/systemd/system/multi-user.target.wants/sallyport.service \
        /etc/systemd/system/multi-user.target.wants/sallyport-keeper.service \
        /etc/systemd/system/multi-user.target.wants/sallyport-lock.service
    ;;
esac
if [ "$1" = purge ]; then
    rm -rf /etc/sallyport /var/lib/sallyport /var/log/sallyport /run/sallyport
    if getent passwd sallyport >/dev/null; then userdel sallyport; fi
    if getent group sallyport >/dev/null; then groupdel sallyport; fi
fi
