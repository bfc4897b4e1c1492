#!/usr/bin/env bash
# nghttp2's clients through the gate. Usage: nghttp.sh BASE
set -u
base=$1
cd "$(mktemp -d)"
sum() { sha256sum | cut -d' ' -f1; }
is() { if [ "$2" = "$3" ]; then echo "ok $1"; else echo "not ok $1: got ${2:0:300}, want ${3:0:300}"; fi; }
has() { case "$2" in *"$3"*) echo "ok $1" ;; *) echo "not ok $1: no ${3:0:100} in ${2:0:400}" ;; esac; }

for n in 1000 70000 3000000; do
    is "down-$n" "$(nghttp --no-verify-peer "$base/bytes/$n" 2>/dev/null | sum)" "$(sum <"$STREAM/$n")"
done
has up "$(nghttp -d "$STREAM/3000000" "$base/sum" 2>/dev/null)" "\"sha256\":\"$(sum <"$STREAM/3000000")\""
# A small window and padding on every frame.
is window "$(nghttp -w 14 -W 15 "$base/bytes/3000000" 2>/dev/null | sum)" "$(sum <"$STREAM/3000000")"
has padding "$(nghttp -b 255 -d "$STREAM/70000" "$base/sum" 2>/dev/null)" "\"sha256\":\"$(sum <"$STREAM/70000")\""
has trailer "$(nghttp -vn "$base/bytes/70000?chunked" 2>&1)" "x-sum: $(sum <"$STREAM/70000")"
has trailer-up "$(nghttp --trailer 'x-checked: yes' -d "$STREAM/70000" "$base/sum" 2>/dev/null)" '"X-Checked":"yes"'
# Header fields over several CONTINUATION frames.
has continuation "$(nghttp --continuation -H "x-long: $(head -c 3000 /dev/zero | tr '\0' v)" "$base/headers" 2>/dev/null)" '"long":3000'
has no-index "$(nghttp --hpack --header-table-size=0 "$base/headers" 2>/dev/null; nghttp --encoder-header-table-size=0 "$base/headers" 2>/dev/null)" '"long":0'
is many "$(nghttp -m 50 "$base/bytes/1000" 2>/dev/null | wc -c)" 50000
has refused "$(nghttp -v "$base/secret/x" 2>&1)" ':status: 403'

load() { # load NAME COUNT OPTION...
    out=$(h2load "${@:3}" 2>&1)
    has "$1" "$out" "$2 total, $2 started, $2 done, $2 succeeded, 0 failed, 0 errored, 0 timeout"
}
load load-one 2000 -n 2000 -c 1 -m 1 "$base/bytes/100"
load load-streams 5000 -n 5000 -c 4 -m 100 "$base/bytes/100"
load load-connections 500 -n 500 -c 100 -m 5 "$base/bytes/1000"
load load-bodies 400 -n 400 -c 4 -m 20 "$base/bytes/300000"
load load-uploads 200 -n 200 -c 4 -m 10 -d "$STREAM/70000" "$base/sum"
load load-small-window 200 -n 200 -c 2 -m 20 -w 12 -W 14 "$base/bytes/70000"
