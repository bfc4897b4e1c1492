# kernels: 6.1 6.12 newest
# timeout: 240s
# needs: package
# The package of the first version: dpkg alone brings the services up, shut and
# ready; then a policy is applied.
. /opt/vm/rows/lib.sh

internet_up
snapshot >/opt/vm/before
[ -z "$(ls /opt/vm/packages/*0.0.1*.deb | sed 1d)" ] || fail "more than one package of a version"
dpkg -i /opt/vm/packages/*0.0.1*.deb
for unit in sallyport-lock sallyport-keeper sallyport; do
    eventually 60 systemctl -q is-active $unit.service
    systemctl -q is-enabled $unit.service || fail "$unit.service is not enabled"
done
eventually 60 ready
sallyport version | grep -q 0.0.1 || fail "not that version: $(sallyport version)"
[ -z "$(systemctl --failed --plain --no-legend)" ] || fail "failed units: $(systemctl --failed --plain --no-legend)"

mkdir -p /etc/sallyport
cp /opt/vm/internet-ca.pem /etc/sallyport/internet-ca.pem
cat >/etc/sallyport/sallyport.yaml <<'YAML'
version: 1
tls: { upstream_ca_files: [/etc/sallyport/internet-ca.pem] }
rules:
  - name: api
    match: { hosts: [api.example.com], ports: [80, 443] }
    action: allow
    headers: { request: { set: { X-Proxied: "1" } } }
YAML
sallyport config check
sallyport reload
sallyport status
detail "$(sallyport version | head -n 1)"
