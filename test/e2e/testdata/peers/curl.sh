#!/usr/bin/env bash
# curl through the gate. Usage: curl.sh BASE VERSION [OPTION...]: an origin as
# in peers_origin_test.go, the version that curl is to report, how it is asked
# for it. One line for each check: "ok NAME", or "not ok NAME: why".
set -u
base=$1 version=$2
shift 2
options=("$@")
cd "$(mktemp -d)"

ask() { curl -sS -m 60 "${options[@]}" "$@"; }
sum() { sha256sum | cut -d' ' -f1; }
is() { # is NAME GOT WANT
    if [ "$2" = "$3" ]; then echo "ok $1"; else echo "not ok $1: got ${2:0:300}, want ${3:0:300}"; fi
}
has() { # has NAME GOT PART
    case "$2" in *"$3"*) echo "ok $1" ;; *) echo "not ok $1: no ${3:0:100} in ${2:0:300}" ;; esac
}

is version "$(ask -o /dev/null -w '%{http_version} %{http_code}' "$base/sum")" "$version 200"

for n in 0 1 1000 16384 70000 3000000; do
    ask "$base/bytes/$n" | sum >got
    is "down-$n" "$(cat got)" "$(sha256sum <"$STREAM/$n" | cut -d' ' -f1)"
done
is down-chunked "$(ask "$base/bytes/3000000?chunked" | sum)" "$(sum <"$STREAM/3000000")"
has trailer-down "$(ask -D - -o /dev/null "$base/bytes/70000?chunked" | tr '[:upper:]' '[:lower:]')" "x-sum: $(sum <"$STREAM/70000")"
is head "$(ask -I -o /dev/null -w '%{http_code} %{size_download} %header{content-length}' "$base/bytes/70000")" "200 0 70000"

for n in 0 1000 70000 3000000; do
    has "up-$n" "$(ask --data-binary "@$STREAM/$n" "$base/sum")" "\"sha256\":\"$(sum <"$STREAM/$n")\""
done
has up-length "$(ask -T "$STREAM/70000" "$base/sum")" '"length":70000'
has up-unknown-length "$(ask -T - -H 'Expect:' "$base/sum" <"$STREAM/3000000")" "\"sha256\":\"$(sum <"$STREAM/3000000")\""
has up-expect "$(ask -T "$STREAM/3000000" -H 'Expect: 100-continue' "$base/sum")" "\"sha256\":\"$(sum <"$STREAM/3000000")\""
is up-empty-put "$(ask -X PUT -d '' -o /dev/null -w '%{http_code}' "$base/sum")" 200
is echo "$(ask -T - -H 'Expect:' "$base/echo" <"$STREAM/3000000" | sum)" "$(sum <"$STREAM/3000000")"
# In HTTP/2 this curl takes the end of a stream that it still writes to for an
# error, now and then.
body=$STREAM/70000
[ "$version" = 2 ] && body=$STREAM/1000
[ "$version" = 2 ] || has early "$(ask -T "$STREAM/3000000" -H 'Expect:' "$base/early")" early

is range "$(ask -r 1000-1999 "$base/range" | sum)" "$(head -c 100000 "$STREAM/3000000" | tail -c +1001 | head -c 1000 | sum)"
is range-status "$(ask -r 0-0 -o /dev/null -w '%{http_code} %{size_download}' "$base/range")" "206 1"
is range-many "$(ask -r 0-9,100-109 -o /dev/null -w '%{http_code}' "$base/range")" 206
is range-beyond "$(ask -r 200000- -o /dev/null -w '%{http_code}' "$base/range")" 416
is resume "$({ head -c 40000 "$STREAM/3000000"; ask -C 40000 "$base/range"; } | sum)" "$(head -c 100000 "$STREAM/3000000" | sum)"
is conditional "$(ask -H 'If-None-Match: "one"' -o /dev/null -w '%{http_code} %{size_download}' "$base/range")" "304 0"

is gzip "$(ask --compressed "$base/gzip" | sum)" "$(head -c 300000 "$STREAM/3000000" | sum)"
is status-204 "$(ask -o /dev/null -w '%{http_code} %{size_download}' "$base/status/204")" "204 0"
is status-503 "$(ask -o /dev/null -w '%{http_code}' "$base/status/503")" "503"
has hints "$(ask -i "$base/hints")" "after hints"
has hints-seen "$(ask -i "$base/hints")" " 103"
is drip "$(ask "$base/drip" | wc -l)" 5

ask -i -H 'X-Many: one' -H 'X-Many: two' -b 'c=1; d=2' -H "X-Long: $(head -c 7000 /dev/zero | tr '\0' v)" "$base/headers" >headers
has headers-repeated "$(cat headers)" '"x-many":["one","two"]'
has headers-cookie "$(cat headers)" '"cookie":"c=1; d=2"'
has headers-long "$(cat headers)" '"long":7000'
is headers-twice "$(grep -ci '^x-twice: \(one\|two\)' headers)" 2
is headers-set-cookie "$(grep -ci '^set-cookie: ' headers)" 2
is headers-empty "$(grep -ci '^x-empty: *.$' headers)" 1
is headers-alt-svc "$(grep -ci '^alt-svc' headers)" 0

# A body that ends too early must never look whole.
ask -o cut "$base/cut" 2>/dev/null
if [ $? -ne 0 ]; then echo "ok cut"; else echo "not ok cut: curl saw no error"; fi

has refused "$(ask -w '%{http_code}' "$base/secret/x")" '"reason":"rule_denied"'
is refused-status "$(ask -o /dev/null -w '%{http_code} %header{x-sallyport-reason} %header{content-type}' "$base/secret/x")" "403 rule_denied application/json"
is refused-upload "$(ask -T "$STREAM/70000" -H 'Expect:' -o /dev/null -w '%{http_code}' "$base/secret/x" 2>/dev/null)" 403
# In HTTP/2 this curl does not wait.
[ "$version" = 2 ] || is refused-expect "$(ask -T "$STREAM/3000000" -H 'Expect: 100-continue' -o /dev/null -w '%{http_code} %{size_upload}' "$base/secret/x")" "403 0"

# In HTTP/2 without TLS this curl has one request for each connection: later
# ones fail if an answer came in one piece.
case "$version$base" in 2http:*) exit ;; esac

has redirect "$(ask -L -T "$body" "$base/redirect")" "\"sha256\":\"$(sum <"$body")\""
# One connection for several requests, and several at once.
is keep-alive "$(ask -o /dev/null "$base/sum" -o /dev/null "$base/bytes/1000" -o /dev/null "$base/bytes/70000?chunked" -w '%{num_connects} ')" "1 0 0 "
parallel=()
for n in 1000 16384 70000 3000000 1000 16384 70000 3000000; do parallel+=(-o "p${#parallel[@]}" "$base/bytes/$n"); done
ask -Z --no-progress-meter --parallel-max 8 "${parallel[@]}"
is parallel "$(cat p* | wc -c)" $((2 * (1000 + 16384 + 70000 + 3000000)))
is after-refusal "$(ask -o /dev/null "$base/secret/x" -o /dev/null "$base/sum" -w '%{http_code} %{num_connects} ')" "403 1 200 0 "
