#!/bin/sh
# Before a package goes. dpkg: remove | upgrade | …; rpm: the number of versions
# that will be left.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
# Nothing runs in an image that is being made.
[ -d /run/systemd/system ] || exit 0
# Takes the gate away. It refuses, and so does the package, while something runs
# behind the gate: without it that would be free.
sallyport uninstall --package
