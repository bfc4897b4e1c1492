package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"
)

// The document types describe the file as it is written, for the schema only.
// TestSchemaKnowsEveryKey holds them against what the decoder reads.
type (
	docFile struct {
		Version       int               `yaml:"version,omitempty" jsonschema:"enum=1" jsonschema_description:"Format of the file."`
		Mode          docMode           `yaml:"mode,omitempty" jsonschema:"default=enforce" jsonschema_description:"enforce carries refusals out, observe only records them. The narrowest wins: rule, workload, file."`
		Default       docAction         `yaml:"default,omitempty" jsonschema:"default=deny" jsonschema_description:"What happens where no rule matches."`
		StateDir      docPath           `yaml:"state_dir,omitempty" jsonschema:"default=/var/lib/sallyport" jsonschema_description:"What outlives a restart; tls.ca_dir derives from it."`
		RuntimeDir    docPath           `yaml:"runtime_dir,omitempty" jsonschema:"default=/run/sallyport" jsonschema_description:"Sockets and trust files; admin.socket derives from it."`
		BPFDir        docPath           `yaml:"bpf_dir,omitempty" jsonschema:"default=/sys/fs/bpf/sallyport" jsonschema_description:"Where links and maps are pinned; bpffs is mounted there if the host has none."`
		NFTTable      string            `yaml:"nft_table,omitempty" jsonschema:"default=sallyport" jsonschema_description:"Name of the guard's nftables table."`
		Slice         string            `yaml:"slice,omitempty" jsonschema:"default=mcp.slice,pattern=\\.slice$" jsonschema_description:"The cgroup below which workloads run."`
		Listen        docListen         `yaml:"listen,omitempty" jsonschema_description:"Ports on loopback, in each network namespace; 0 is any free one."`
		Admin         docAdmin          `yaml:"admin,omitempty"`
		Metrics       docMetrics        `yaml:"metrics,omitempty"`
		Log           docLog            `yaml:"log,omitempty" jsonschema_description:"The daemon's own log, not the audit."`
		TLS           docTLS            `yaml:"tls,omitempty"`
		DNS           docDNS            `yaml:"dns,omitempty"`
		Timeouts      docTimeouts       `yaml:"timeouts,omitempty"`
		Audit         docAudit          `yaml:"audit,omitempty"`
		UpstreamProxy docUpstreamProxy  `yaml:"upstream_proxy,omitempty" jsonschema_description:"The proxy through which the network lets connections out, for each rule without one of its own."`
		Redis         docRedis          `yaml:"redis,omitempty" jsonschema_description:"Where counters of policy redis are shared."`
		Cache         docCache          `yaml:"cache,omitempty" jsonschema_description:"The memory of all caches."`
		Defaults      docDefaults       `yaml:"defaults,omitempty" jsonschema_description:"For each rule that does not set that key itself."`
		Workloads     map[string]docOne `yaml:"workloads,omitempty" jsonschema_description:"Entries by name; the first in file order that matches names a workload."`
		Upstreams     map[string]docUp  `yaml:"upstreams,omitempty" jsonschema_description:"Entries by name: targets that stand in for the hosts of the rules that name them."`
		Rules         []docRule         `yaml:"rules,omitempty" jsonschema_description:"In order: the first that matches decides."`
	}
	docListen struct {
		TCP int `yaml:"tcp,omitempty" jsonschema:"minimum=0,maximum=65535,default=15001" jsonschema_description:"Where captured connections arrive."`
		DNS int `yaml:"dns,omitempty" jsonschema:"minimum=0,maximum=65535,default=15053" jsonschema_description:"Where captured questions of DNS arrive."`
	}
	docAdmin struct {
		Socket docPath `yaml:"socket,omitempty" jsonschema:"maxLength=107" jsonschema_description:"The admin socket; RUNTIME_DIR/admin.sock by default."`
		Group  string  `yaml:"group,omitempty" jsonschema:"default=sallyport" jsonschema_description:"May use the socket."`
	}
	docMetrics struct {
		Listen string `yaml:"listen,omitempty" jsonschema:"default=127.0.0.1:9595" jsonschema_description:"/metrics, /healthz and /readyz; empty is off."`
	}
	docLog struct {
		Level  string `yaml:"level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error,default=info" jsonschema_description:"Least severity that is written."`
		Format string `yaml:"format,omitempty" jsonschema:"enum=json,enum=console,default=json" jsonschema_description:"One JSON object a line, or lines for people."`
	}
	docTLS struct {
		CADir           docPath       `yaml:"ca_dir,omitempty" jsonschema_description:"The authority's root and issuing certificate; STATE_DIR/ca by default."`
		UpstreamCAFiles many[docPath] `yaml:"upstream_ca_files,omitempty" jsonschema_description:"Trusted for upstreams besides the system's roots."`
		MinVersion      string        `yaml:"min_version,omitempty" jsonschema:"enum=1.2,enum=1.3,default=1.2" jsonschema_description:"Least version towards upstreams."`
		OnPinned        string        `yaml:"on_pinned,omitempty" jsonschema:"enum=block,enum=tunnel,default=block" jsonschema_description:"What becomes of a client that rejected our certificate; tunnel passes its next connections to that name on unseen for an hour, where no rule needs to see a request."`
	}
	docDNS struct {
		Upstreams     many[string] `yaml:"upstreams,omitempty" jsonschema_description:"Asked in order; none means those of the host's resolv.conf. original, which stands first: the server that the workload asked, inside its network namespace, where that is an address of the namespace itself, of its gateway or of the host (the DNS of a container engine); the others are asked for any other."`
		AllowUnlisted bool         `yaml:"allow_unlisted,omitempty" jsonschema_description:"Resolve names that no rule lists."`
	}
	docTimeouts struct {
		Connect        docDuration `yaml:"connect,omitempty" jsonschema:"default=10s" jsonschema_description:"Until an upstream has accepted, each address tried among it."`
		ResponseHeader docDuration `yaml:"response_header,omitempty" jsonschema:"default=10m" jsonschema_description:"From the end of the request to the head of its answer; then 504."`
		Idle           docDuration `yaml:"idle,omitempty" jsonschema:"default=10m" jsonschema_description:"Closes a connection on which no exchange is open."`
		Sniff          docDuration `yaml:"sniff,omitempty" jsonschema:"default=10s" jsonschema_description:"Until a new connection has said what it speaks."`
		Drain          docDuration `yaml:"drain,omitempty" jsonschema:"default=30s" jsonschema_description:"How long running exchanges may go on when the worker stops or is replaced."`
		StreamIdle     docDuration `yaml:"stream_idle,omitempty" jsonschema:"default=0s" jsonschema_description:"Closes an open exchange, stream or tunnel that is silent; 0s never."`
	}
	docRuleTimeouts struct {
		Connect        docDuration `yaml:"connect,omitempty" jsonschema_description:"As the file's, for this rule."`
		ResponseHeader docDuration `yaml:"response_header,omitempty" jsonschema_description:"As the file's, for this rule."`
		StreamIdle     docDuration `yaml:"stream_idle,omitempty" jsonschema_description:"As the file's, for this rule."`
	}
	docAudit struct {
		Sinks     many[docSink] `yaml:"sinks,omitempty" jsonschema_description:"Where events go; file by default."`
		File      docAuditFile  `yaml:"file,omitempty" jsonschema_description:"A JSON object a line, rotated by size."`
		Syslog    docSyslog     `yaml:"syslog,omitempty" jsonschema_description:"RFC 5424."`
		OnFailure string        `yaml:"on_failure,omitempty" jsonschema:"enum=block,enum=continue,default=block" jsonschema_description:"What an event that cannot be written means: block stops the exchange."`
	}
	docAuditFile struct {
		Path     docPath `yaml:"path,omitempty" jsonschema:"default=/var/log/sallyport/audit.jsonl" jsonschema_description:"The file that is written; rotated ones lie beside it."`
		MaxSize  docSize `yaml:"max_size,omitempty" jsonschema:"default=100MB" jsonschema_description:"From here on a new file is begun."`
		MaxFiles int     `yaml:"max_files,omitempty" jsonschema:"minimum=1,maximum=1000,default=10" jsonschema_description:"Rotated files that are kept."`
	}
	docSyslog struct {
		Address  string `yaml:"address,omitempty" jsonschema_description:"/path, unix:///path, udp://host:port or tcp://host:port; empty is /dev/log."`
		Facility string `yaml:"facility,omitempty" jsonschema:"default=authpriv,enum=user,enum=mail,enum=daemon,enum=auth,enum=syslog,enum=lpr,enum=news,enum=uucp,enum=cron,enum=authpriv,enum=ftp,enum=local0,enum=local1,enum=local2,enum=local3,enum=local4,enum=local5,enum=local6,enum=local7" jsonschema_description:"What the messages are filed under."`
	}
	docRedis struct {
		Address      string      `yaml:"address,omitempty" jsonschema:"default=127.0.0.1:6379" jsonschema_description:"host:port."`
		Username     string      `yaml:"username,omitempty" jsonschema_description:"For ACLs; empty is the default user."`
		PasswordFile string      `yaml:"password_file,omitempty" jsonschema:"pattern=^(/.*)?$" jsonschema_description:"Holds the password; read at start and at each reload."`
		TLS          bool        `yaml:"tls,omitempty" jsonschema_description:"Speak TLS, and verify the certificate."`
		CAFile       string      `yaml:"ca_file,omitempty" jsonschema:"pattern=^(/.*)?$" jsonschema_description:"PEM; trusted besides the system's roots."`
		DB           int         `yaml:"db,omitempty" jsonschema:"minimum=0,maximum=65535,default=0" jsonschema_description:"Number of the database."`
		Prefix       string      `yaml:"prefix,omitempty" jsonschema:"maxLength=100,default=sallyport:" jsonschema_description:"Begins each key."`
		Timeout      docDuration `yaml:"timeout,omitempty" jsonschema:"default=100ms" jsonschema_description:"Of one call; one that fails counts as Redis being away."`
	}
	docCache struct {
		MaxBytes docSize `yaml:"max_bytes,omitempty" jsonschema:"default=64MB" jsonschema_description:"What is stored together."`
	}
	docUp struct {
		Algorithm    string          `yaml:"algorithm,omitempty" jsonschema:"enum=round_robin,enum=least_conn,enum=random,enum=consistent_hash,default=round_robin" jsonschema_description:"How a target is chosen."`
		HashOn       string          `yaml:"hash_on,omitempty" jsonschema:"pattern=^(workload|path|header:.+)$" jsonschema_description:"For consistent_hash: workload, path or header:NAME."`
		Targets      many[docTarget] `yaml:"targets" jsonschema_description:"Who may be chosen."`
		PreserveHost bool            `yaml:"preserve_host,omitempty" jsonschema:"default=false" jsonschema_description:"Host is the request's own, not the target's. SNI and the verified name are always the target's."`
		SlowStart    docDuration     `yaml:"slow_start,omitempty" jsonschema:"default=0s" jsonschema_description:"How long a target that has come back takes to its full weight."`
		Healthchecks docHealthchecks `yaml:"healthchecks,omitempty" jsonschema_description:"Kong's fields and meaning; 0 is off."`
	}
	docTarget struct {
		Target string `yaml:"target" jsonschema_description:"host:port."`
		Weight int    `yaml:"weight,omitempty" jsonschema:"minimum=0,maximum=65535,default=100" jsonschema_description:"Share of the choices; 0 is none."`
	}
	docHealthchecks struct {
		Active  docActive  `yaml:"active,omitempty" jsonschema_description:"Asks by itself."`
		Passive docPassive `yaml:"passive,omitempty" jsonschema_description:"Goes by what requests met."`
	}
	docActive struct {
		Type      string          `yaml:"type,omitempty" jsonschema:"enum=http,enum=https,enum=tcp" jsonschema_description:"https where the port is 443, else http, by default."`
		HTTPPath  docPath         `yaml:"http_path,omitempty" jsonschema:"default=/" jsonschema_description:"What is asked for."`
		Timeout   docDuration     `yaml:"timeout,omitempty" jsonschema:"default=1s" jsonschema_description:"Of one check."`
		Statuses  many[docStatus] `yaml:"statuses,omitempty" jsonschema_description:"Of a healthy target; 200 and 302 by default."`
		Healthy   docHealthy      `yaml:"healthy,omitempty" jsonschema_description:"Checks of targets that are taken for healthy."`
		Unhealthy docUnhealthy    `yaml:"unhealthy,omitempty" jsonschema_description:"Checks of targets that are not."`
	}
	docHealthy struct {
		Interval  docDuration `yaml:"interval,omitempty" jsonschema:"default=0s" jsonschema_description:"Between two checks."`
		Successes int         `yaml:"successes,omitempty" jsonschema:"minimum=0,maximum=255,default=0" jsonschema_description:"In a row that make a target healthy."`
	}
	docUnhealthy struct {
		Interval docDuration `yaml:"interval,omitempty" jsonschema:"default=0s" jsonschema_description:"Between two checks."`
		docFailures
	}
	docFailures struct {
		HTTPFailures int `yaml:"http_failures,omitempty" jsonschema:"minimum=0,maximum=255,default=0" jsonschema_description:"Statuses in a row that make a target unhealthy."`
		TCPFailures  int `yaml:"tcp_failures,omitempty" jsonschema:"minimum=0,maximum=255,default=0" jsonschema_description:"Failed connections in a row that do."`
		Timeouts     int `yaml:"timeouts,omitempty" jsonschema:"minimum=0,maximum=255,default=0" jsonschema_description:"Timeouts in a row that do."`
	}
	docPassive struct {
		Statuses     many[docStatus] `yaml:"statuses,omitempty" jsonschema_description:"Failures; 429, 500 and 503 by default."`
		Unhealthy    docFailures     `yaml:"unhealthy,omitempty" jsonschema_description:"What requests met that makes a target unhealthy."`
		RecoverAfter docDuration     `yaml:"recover_after,omitempty" jsonschema:"default=30s" jsonschema_description:"When a target is tried again without active checks; 0s never."`
	}

	// docStages are the keys of stages; in a rule each may be off.
	docStages struct {
		Auth          orOff[docAuth]            `yaml:"auth,omitempty" jsonschema_description:"Callers inside a workload must send a secret."`
		SizeLimit     orOff[docSizeLimit]       `yaml:"size_limit,omitempty" jsonschema_description:"Bytes of bodies on the wire; 413 for a request, 502 for a response."`
		RateLimit     orOff[many[docRateLimit]] `yaml:"rate_limit,omitempty" jsonschema_description:"Kong's rate-limiting; of a list all must admit."`
		Throttle      orOff[many[docThrottle]]  `yaml:"throttle,omitempty" jsonschema_description:"nginx's limit_req; of a list all must admit."`
		ContentFilter orOff[many[docFilter]]    `yaml:"content_filter,omitempty" jsonschema_description:"Patterns in bodies, header fields and URLs."`
		Secrets       docSecrets                `yaml:"secrets,omitempty" jsonschema_description:"What is done where a built-in detector finds a secret."`
		Headers       orOff[docHeaders]         `yaml:"headers,omitempty" jsonschema_description:"Changes of header fields."`
		Cache         orOff[docRuleCache]       `yaml:"cache,omitempty" jsonschema_description:"A shared cache for each workload (RFC 9111)."`
		Upstream      string                    `yaml:"upstream,omitempty" jsonschema_description:"The entry of upstreams that takes the place of the request's host."`
		Retry         orOff[docRetry]           `yaml:"retry,omitempty" jsonschema_description:"Tries a request again that an upstream did not take."`
		Log           orOff[docBodyLog]         `yaml:"log,omitempty" jsonschema_description:"What of bodies an audit event holds."`
	}
	docAuth struct {
		Header     string  `yaml:"header" jsonschema_description:"The field that carries the secret; it is not passed on."`
		SecretFile docPath `yaml:"secret_file" jsonschema_description:"Holds the secret; read at start and at each reload."`
	}
	docSizeLimit struct {
		Request  docSize `yaml:"request,omitempty" jsonschema_description:"Of a request body."`
		Response docSize `yaml:"response,omitempty" jsonschema_description:"Of a response body."`
	}
	docRateLimit struct {
		Second            int           `yaml:"second,omitempty" jsonschema:"minimum=0,maximum=1000000000,default=0" jsonschema_description:"Requests in a second; 0 is no limit."`
		Minute            int           `yaml:"minute,omitempty" jsonschema:"minimum=0,maximum=1000000000,default=0" jsonschema_description:"Requests in a minute."`
		Hour              int           `yaml:"hour,omitempty" jsonschema:"minimum=0,maximum=1000000000,default=0" jsonschema_description:"Requests in an hour."`
		Day               int           `yaml:"day,omitempty" jsonschema:"minimum=0,maximum=1000000000,default=0" jsonschema_description:"Requests in a day."`
		By                docCounterKey `yaml:"by,omitempty" jsonschema:"default=workload" jsonschema_description:"What has a count of its own."`
		Policy            string        `yaml:"policy,omitempty" jsonschema:"enum=local,enum=redis,default=local" jsonschema_description:"local counts on this host; redis with all daemons that share one."`
		HideClientHeaders bool          `yaml:"hide_client_headers,omitempty" jsonschema:"default=false" jsonschema_description:"Leave out the RateLimit fields."`
		FaultTolerant     bool          `yaml:"fault_tolerant,omitempty" jsonschema:"default=true" jsonschema_description:"Go on with local counters while Redis is away."`
	}
	docThrottle struct {
		Rate    string        `yaml:"rate" jsonschema:"pattern=^[0-9]+r/[sm]$" jsonschema_description:"Requests a second (10r/s) or minute (30r/m)."`
		Burst   int           `yaml:"burst,omitempty" jsonschema:"minimum=0,maximum=100000,default=0" jsonschema_description:"Requests beyond the rate that wait instead of being refused."`
		Nodelay bool          `yaml:"nodelay,omitempty" jsonschema:"default=false" jsonschema_description:"Those of burst do not wait."`
		Delay   int           `yaml:"delay,omitempty" jsonschema:"minimum=0,maximum=100000,default=0" jsonschema_description:"So many of burst do not wait."`
		By      docCounterKey `yaml:"by,omitempty" jsonschema:"default=workload" jsonschema_description:"What has a rate of its own."`
		Status  docFailure    `yaml:"status,omitempty" jsonschema:"default=429" jsonschema_description:"Of a refusal."`
	}
	docFilter struct {
		Name    string     `yaml:"name" jsonschema:"minLength=1,maxLength=100" jsonschema_description:"Appears in audit events."`
		Pattern string     `yaml:"pattern" jsonschema_description:"RE2."`
		In      string     `yaml:"in,omitempty" jsonschema:"enum=request,enum=response,enum=both,default=request" jsonschema_description:"Where is looked."`
		Action  string     `yaml:"action,omitempty" jsonschema:"enum=block,enum=redact,enum=report,default=block" jsonschema_description:"block refuses, redact overwrites what matched, report only records."`
		Status  docFailure `yaml:"status,omitempty" jsonschema:"default=400" jsonschema_description:"Of a refusal."`
	}
	docHeaders struct {
		Request  docChanges `yaml:"request,omitempty" jsonschema_description:"Of what the upstream gets."`
		Response docChanges `yaml:"response,omitempty" jsonschema_description:"Of what the workload gets."`
	}
	docChanges struct {
		Set    map[string]string       `yaml:"set,omitempty" jsonschema_description:"Fields that have this value alone."`
		Add    map[string]many[string] `yaml:"add,omitempty" jsonschema_description:"Values that are added."`
		Remove many[string]            `yaml:"remove,omitempty" jsonschema_description:"Fields that go."`
	}
	docRuleCache struct {
		Methods      many[docCached] `yaml:"methods,omitempty" jsonschema_description:"GET and HEAD by default."`
		Statuses     many[docStatus] `yaml:"statuses,omitempty" jsonschema_description:"200, 301 and 302 by default."`
		ContentTypes many[string]    `yaml:"content_types,omitempty" jsonschema_description:"text/plain and application/json by default."`
		TTL          docDuration     `yaml:"ttl,omitempty" jsonschema:"default=300s" jsonschema_description:"Freshness of an answer that states none."`
		Force        bool            `yaml:"force,omitempty" jsonschema:"default=false" jsonschema_description:"ttl instead of what the answer states."`
		MaxBody      docSize         `yaml:"max_body,omitempty" jsonschema:"default=1MB" jsonschema_description:"Longer answers are not stored."`
	}
	docRetry struct {
		Attempts int              `yaml:"attempts,omitempty" jsonschema:"minimum=2,maximum=20,default=3" jsonschema_description:"Counts all tries."`
		On       many[docRetryOn] `yaml:"on,omitempty" jsonschema_description:"connect, or a status from 400 to 599; connect, 502, 503 and 504 by default."`
		Backoff  docDuration      `yaml:"backoff,omitempty" jsonschema:"default=100ms" jsonschema_description:"Before the second try; doubled before each further one."`
	}
	docBodyLog struct {
		RequestBody  bool         `yaml:"request_body,omitempty" jsonschema:"default=false" jsonschema_description:"Record request bodies."`
		ResponseBody bool         `yaml:"response_body,omitempty" jsonschema:"default=false" jsonschema_description:"Record response bodies."`
		MaxBody      docSize      `yaml:"max_body,omitempty" jsonschema:"default=64KB" jsonschema_description:"What of each is recorded; 512 KiB at most."`
		Redact       many[string] `yaml:"redact,omitempty" jsonschema_description:"JSON paths such as $.password, or header:NAME."`
	}
	docDefaults struct {
		docStages
		Timeouts      docRuleTimeouts  `yaml:"timeouts,omitempty" jsonschema_description:"As those of a rule."`
		UpstreamProxy docUpstreamProxy `yaml:"upstream_proxy,omitempty"`
		UpstreamTLS   docUpstreamTLS   `yaml:"upstream_tls,omitempty"`
	}
	docUpstreamTLS struct {
		Cert string `yaml:"cert" jsonschema:"pattern=^(/.*)?$" jsonschema_description:"PEM, with its intermediates; read at start and at each reload. Empty, with an empty key, is none."`
		Key  string `yaml:"key" jsonschema:"pattern=^(/.*)?$" jsonschema_description:"PEM, readable by its owner and group only."`
	}
	docUpstreamProxy struct {
		URL          string       `yaml:"url,omitempty" jsonschema:"pattern=^(https?://.+)?$" jsonschema_description:"http://host:port or https://host:port; empty is none."`
		Username     string       `yaml:"username,omitempty" jsonschema:"pattern=^[^:]*$" jsonschema_description:"For Basic authentication."`
		PasswordFile string       `yaml:"password_file,omitempty" jsonschema:"pattern=^(/.*)?$" jsonschema_description:"Holds the password; read at start and at each reload."`
		NoProxy      many[string] `yaml:"no_proxy,omitempty" jsonschema_description:"What is reached without the proxy: a name with all below it, .name for what lies below it only, an address, a prefix, or *; each may end in :port."`
	}
	docOne struct {
		Match  docWorkloadMatch `yaml:"match,omitempty" jsonschema_description:"All keys must hold; absent where only --workload names it."`
		Name   string           `yaml:"name,omitempty" jsonschema_description:"May hold {unit}, {container} or {command}: one workload for each."`
		Mode   docMode          `yaml:"mode,omitempty" jsonschema_description:"For this workload."`
		Listen many[docPort]    `yaml:"listen,omitempty" jsonschema_description:"Ports on which it may answer connections from other hosts."`
	}
	docWorkloadMatch struct {
		Unit    many[string] `yaml:"unit,omitempty" jsonschema_description:"Globs of names of systemd units."`
		Cgroup  many[string] `yaml:"cgroup,omitempty" jsonschema_description:"Globs of paths below the cgroup2 mount."`
		Command many[string] `yaml:"command,omitempty" jsonschema_description:"Globs of the whole command line given to exec."`
		User    many[string] `yaml:"user,omitempty" jsonschema_description:"Names of the users that gave the command to exec."`

		Container many[docContainer] `yaml:"container,omitempty" jsonschema_description:"What Docker or Podman knows of it."`
	}
	docContainer struct {
		Name  many[string] `yaml:"name,omitempty" jsonschema_description:"Globs."`
		Image many[string] `yaml:"image,omitempty" jsonschema_description:"As it was given to run."`
		Label many[string] `yaml:"label,omitempty" jsonschema_description:"K=V; of several with one key any will do."`
	}
	docRule struct {
		docStages
		Name          string           `yaml:"name" jsonschema:"minLength=1,maxLength=100" jsonschema_description:"Unique; appears in audit, metrics and refusals."`
		Match         docMatch         `yaml:"match,omitempty" jsonschema_description:"All keys must hold; of a list any one."`
		Private       many[string]     `yaml:"private,omitempty" jsonschema_description:"Prefixes inside refused address classes that this rule's names may resolve to."`
		Action        docAction        `yaml:"action" jsonschema_description:"What becomes of what matches."`
		Handling      string           `yaml:"handling,omitempty" jsonschema:"enum=inspect,enum=tunnel,enum=direct,default=inspect" jsonschema_description:"direct is decided in the kernel: cidrs and ports only."`
		Mode          docMode          `yaml:"mode,omitempty" jsonschema_description:"For this rule."`
		Timeouts      docRuleTimeouts  `yaml:"timeouts,omitempty" jsonschema_description:"Instead of the file's."`
		UpstreamProxy docUpstreamProxy `yaml:"upstream_proxy,omitempty" jsonschema_description:"Instead of the file's; an empty url is none. Nothing is taken over from the file's."`
		UpstreamTLS   docUpstreamTLS   `yaml:"upstream_tls,omitempty" jsonschema_description:"Certificate for upstreams that ask for one (mutual TLS)."`
	}
	docMatch struct {
		Workloads many[string]            `yaml:"workloads,omitempty" jsonschema_description:"Globs of the names of workloads."`
		Hosts     many[string]            `yaml:"hosts,omitempty" jsonschema_description:"Names; *.example.com is any depth of subdomain, not the apex."`
		CIDRs     many[string]            `yaml:"cidrs,omitempty" jsonschema_description:"Of the address that is dialled."`
		Ports     many[docPortRange]      `yaml:"ports,omitempty" jsonschema_description:"Numbers or ranges (8000-8099); any by default."`
		Protocols many[docProtocol]       `yaml:"protocols,omitempty" jsonschema_description:"Any TCP by default; tls covers https, tcp covers all but udp."`
		Methods   many[string]            `yaml:"methods,omitempty" jsonschema_description:"Of HTTP."`
		Paths     many[string]            `yaml:"paths,omitempty" jsonschema_description:"* within a segment, ** across."`
		Headers   map[string]many[string] `yaml:"headers,omitempty" jsonschema_description:"Fields by name; globs of their values."`
		When      string                  `yaml:"when,omitempty" jsonschema_description:"A condition in CEL on request, workload and flow; one that gives no answer refuses."`
	}

	docMode      string
	docAction    string
	docPath      string
	docDuration  string
	docSize      string
	docSink      string
	docProtocol  string
	docPort      int
	docPortRange string
	docStatus    int
	docFailure   int
	docRetryOn   string
	docCached    string
	docSecrets   string

	docCounterKey string

	// many is a value or a list of them.
	many[T any] []T
	// orOff is a value or the word off.
	orOff[T any] struct{ Value T }
)

// element lets the reflector find what a list is of.
func (many[T]) element() reflect.Type { return reflect.TypeFor[T]() }

// value lets the reflector find what may be off.
func (orOff[T]) value() reflect.Type { return reflect.TypeFor[T]() }

var simple = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[string]():        {Type: "string"},
	reflect.TypeFor[docMode]():       {Type: "string", Enum: []any{"enforce", "observe"}},
	reflect.TypeFor[docAction]():     {Type: "string", Enum: []any{"allow", "deny"}},
	reflect.TypeFor[docPath]():       {Type: "string", Pattern: "^/"},
	reflect.TypeFor[docDuration]():   {Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`},
	reflect.TypeFor[docSize]():       {Type: "string", Pattern: "^[0-9]+([KMGT]i?)?B$"},
	reflect.TypeFor[docSink]():       {Type: "string", Enum: []any{"file", "journald", "syslog"}},
	reflect.TypeFor[docStatus]():     {Type: "integer", Minimum: "100", Maximum: "599"},
	reflect.TypeFor[docFailure]():    {Type: "integer", Minimum: "400", Maximum: "599"},
	reflect.TypeFor[docRetryOn]():    {OneOf: []*jsonschema.Schema{{Type: "integer", Minimum: "400", Maximum: "599"}, {Type: "string", Pattern: "^(connect|[45][0-9][0-9])$"}}},
	reflect.TypeFor[docCached]():     {Type: "string", Enum: []any{"GET", "HEAD"}},
	reflect.TypeFor[docSecrets]():    {Enum: []any{"block", "redact", "report", off, false}},
	reflect.TypeFor[docCounterKey](): {Type: "string", Pattern: "^(workload|rule|host|header:.+)$"},
	reflect.TypeFor[docProtocol]():   {Type: "string", Enum: []any{"http", "https", "tls", "tcp", "udp"}},
	reflect.TypeFor[docPort]():       {Type: "integer", Minimum: "1", Maximum: "65535"},
	reflect.TypeFor[docPortRange]():  {OneOf: []*jsonschema.Schema{{Type: "integer", Minimum: "1", Maximum: "65535"}, {Type: "string", Pattern: "^[0-9]+(-[0-9]+)?$"}}},
}

func mapType(t reflect.Type) *jsonschema.Schema {
	if s, ok := simple[t]; ok && t.Name() != "string" {
		one := *s
		return &one
	}
	switch v := reflect.Zero(t).Interface().(type) {
	case interface{ element() reflect.Type }:
		item := reflectType(v.element())
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{item, {Type: "array", Items: item}}}
	case interface{ value() reflect.Type }:
		value := reflectType(v.value())
		if value.OneOf == nil {
			value = &jsonschema.Schema{OneOf: []*jsonschema.Schema{value}}
		}
		value.OneOf = append(value.OneOf, &jsonschema.Schema{Enum: []any{off, false}})
		return value
	}
	return nil
}

// reflectType gives the schema of a type that stands inside another.
func reflectType(t reflect.Type) *jsonschema.Schema {
	if s, ok := simple[t]; ok {
		one := *s
		return &one
	}
	if s := mapType(t); s != nil {
		return s
	}
	s := reflector().ReflectFromType(t)
	s.Version = ""
	return s
}

func reflector() *jsonschema.Reflector {
	return &jsonschema.Reflector{FieldNameTag: "yaml", Anonymous: true, ExpandedStruct: true, DoNotReference: true, Mapper: mapType}
}

func generateSchema(t *testing.T) (*jsonschema.Schema, []byte) {
	t.Helper()
	s := reflector().Reflect(&docFile{})
	s.Title = "sallyport configuration"
	s.PatternProperties = map[string]*jsonschema.Schema{"^x-": {Description: "Ignored: a place for YAML anchors."}}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		t.Fatal(err)
	}
	return s, b.Bytes()
}

// TestSchemaIsCurrent fails when the committed schema is not the one that the
// document types give; -update writes it anew.
func TestSchemaIsCurrent(t *testing.T) {
	_, want := generateSchema(t)
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), string(Schema())); diff != "" {
		t.Errorf("schema.json is out of date; run go test ./pkg/config -update:\n%s", diff)
	}
}

// TestSchemaKnowsEveryKey compares the schema with what the decoder reads.
func TestSchemaKnowsEveryKey(t *testing.T) {
	read := make(map[string][]string)
	d := &decoder{report: &report{order: map[string]int{}}, fields: read, left: maxNodes}
	left := maxNodes
	text := `
listen: {}
admin: {}
metrics: {}
log: {}
tls: {}
dns: {}
timeouts: {}
audit: { file: {}, syslog: {} }
upstream_proxy: {}
redis: {}
cache: {}
defaults: { timeouts: {}, upstream_proxy: {}, upstream_tls: {}, STAGES }
workloads: { a: { match: { container: {} } } }
upstreams: { a: { targets: {}, healthchecks: { active: { healthy: {}, unhealthy: {} }, passive: { unhealthy: {} } } } }
rules: [{ match: {}, timeouts: {}, upstream_proxy: {}, upstream_tls: {}, STAGES }]
`
	text = strings.ReplaceAll(text, "STAGES", "auth: {}, size_limit: {}, rate_limit: {}, throttle: {}, content_filter: {}, headers: { request: {}, response: {} }, cache: {}, retry: {}, log: {}")
	d.config(parseFile(File{"f", []byte(text)}, d.report, &left))
	s, _ := generateSchema(t)
	known := make(map[string][]string)
	var walk func(path string, s *jsonschema.Schema)
	walk = func(path string, s *jsonschema.Schema) {
		if s == nil {
			return
		}
		for _, one := range s.OneOf {
			// A value, a list of them or off: they stand for the same key.
			walk(path, one)
		}
		if s.Properties == nil {
			return
		}
		for p := s.Properties.Oldest(); p != nil; p = p.Next() {
			known[path] = append(known[path], p.Key)
			walk(joined(path, p.Key), p.Value)
			walk(joined(path, p.Key)+"[]", p.Value.Items)
			walk(joined(path, p.Key)+"{}", p.Value.AdditionalProperties)
		}
	}
	walk("", s)
	for path := range maps.Keys(read) {
		slices.Sort(read[path])
		slices.Sort(known[path])
	}
	if diff := cmp.Diff(known, read); diff != "" {
		t.Errorf("the schema and the decoder know other keys (-schema +decoder):\n%s", diff)
	}
	// What is not built yet is not in the schema, and cannot be built unnoticed.
	for path, keys := range unbuilt {
		if _, ok := read[path]; !ok {
			t.Errorf("keys that are not built stand in the unknown mapping %q", path)
		}
		for _, key := range keys {
			if slices.Contains(read[path], key) {
				t.Errorf("%s is read and said to be not built yet", joined(path, key))
			}
		}
	}
}
