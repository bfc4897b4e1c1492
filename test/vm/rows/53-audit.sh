# kernels: 6.1
# timeout: 120s
# A single HTTPS request of a tagged process is proxied and audited; one that no
# rule allows is refused and audited, in TCP, HTTP and HTTPS.
. /opt/vm/rows/lib.sh

audit=/var/log/sallyport/audit.jsonl
# tagged COMMAND…: in mcp.slice, from its first instruction.
tagged() { systemd-run -q --wait --pipe --collect --slice=mcp.slice -p User=mcp "$@"; }
remember
before=$(came proxied)
bundle=/var/lib/sallyport/trust/current/ca-certificates.crt
[ -e $bundle ] || bundle=$(find /var/lib/sallyport/trust /run/sallyport/trust -name '*.crt' -o -name '*.pem' 2>/dev/null | head -n 1)
tagged -E CURL_CA_BUNDLE="$bundle" curl -sS --max-time 20 https://api.example.com/audited-request | grep -q audited-request || fail "no answer through the gate"
[ "$(came proxied)" -gt "$before" ] || fail "it did not come"
eventually 60 grep -q '/audited-request' $audit
# A name that no rule has is refused by the resolver already: here it is known.
for url in http://other.example.com/refused-request https://other.example.com/refused-request http://203.0.113.10:9000/; do
    if tagged curl -sSkf --max-time 20 --resolve '*:80:203.0.113.10' --resolve '*:443:203.0.113.10' $url >out 2>&1; then fail "$url was answered: $(cat out)"; fi
    cat out
done
eventually 60 grep -q '/refused-request' $audit
nothing_leaked
