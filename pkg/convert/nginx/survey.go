package nginx

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// carried are looked at where they hold.
var carried = []string{
	"location", "server", "http", "upstream", "limit_req", "limit_req_zone", "limit_req_status", "client_max_body_size", "proxy_pass", "proxy_set_header",
	"proxy_ssl_verify", "proxy_ssl_trusted_certificate", "proxy_ssl_name", "proxy_ssl_server_name", "proxy_ssl_certificate", "proxy_ssl_certificate_key",
	"proxy_ssl_protocols", "proxy_cache", "proxy_cache_valid", "proxy_cache_methods", "proxy_cache_key", "proxy_cache_bypass", "proxy_no_cache",
	"proxy_ignore_headers", "proxy_connect_timeout", "proxy_read_timeout", "proxy_next_upstream", "proxy_next_upstream_tries", "proxy_hide_header",
	"add_header", "allow", "deny", "return", "rewrite", "if", "limit_except", "internal", "limit_req_dry_run", "server_name", "listen", "stream", "mail",
	"proxy_method", "auth_basic", "auth_request", "auth_jwt", "ssl_verify_client", "break",
	"grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass",
}

// tuning concern nginx's own work, or callers' connections to it.
var tuning = []string{
	"user", "pid", "daemon", "master_process", "events", "load_module", "pcre_jit", "timer_resolution", "env", "lock_file", "thread_pool", "working_directory",
	"sendfile", "aio", "directio", "root", "alias", "index", "expires", "etag", "if_modified_since", "autoindex", "charset", "source_charset", "types", "default_type",
	"try_files", "set", "map", "geo", "split_clients", "uninitialized_variable_warn", "rewrite_log", "http2", "http3", "resolver", "resolver_timeout", "server_tokens",
	"send_timeout", "satisfy", "merge_slashes", "absolute_redirect", "port_in_redirect", "server_name_in_redirect", "chunked_transfer_encoding",
	"reset_timedout_connection", "postpone_output", "output_buffers", "large_client_header_buffers", "underscores_in_headers", "ignore_invalid_headers",
	"recursive_error_pages", "msie_padding", "msie_refresh", "log_subrequest", "log_not_found", "proxy_http_version", "proxy_redirect", "proxy_socket_keepalive",
	"proxy_ssl_session_reuse", "proxy_ssl_ciphers", "proxy_ssl_verify_depth", "proxy_cache_path", "proxy_cache_lock", "proxy_cache_use_stale", "proxy_cache_background_update",
	"proxy_cache_revalidate", "proxy_cache_min_uses", "proxy_store", "proxy_intercept_errors", "real_ip_header", "set_real_ip_from", "real_ip_recursive",
	"auth_basic_user_file", "auth_request_set", "limit_req_log_level", "limit_conn_log_level", "limit_conn_zone", "limit_conn_status", "server_names_hash_bucket_size",
	"server_names_hash_max_size", "max_ranges", "read_ahead", "stub_status", "status_zone", "proxy_next_upstream_timeout", "proxy_pass_header",
	"fastcgi_param", "uwsgi_param", "scgi_param", "proxy_send_lowat", "proxy_ignore_client_abort", "perl_modules", "ssl_engine", "early_hints",
}

// tuningPrefixes begin the names of whole families of such directives.
var tuningPrefixes = []string{
	"worker_", "proxy_buffer", "proxy_busy_", "proxy_temp_", "proxy_max_temp_", "proxy_request_buffering", "proxy_headers_hash_", "gzip", "brotli", "tcp_",
	"keepalive_", "client_header_", "client_body_", "types_hash_", "open_file_cache", "lingering_", "variables_hash_", "map_hash_", "http2_", "http3_", "ssl_", "fastcgi_",
	"uwsgi_", "scgi_", "grpc_", "memcached_", "quic_", "proxy_cache_max_range", "proxy_cache_lock_", "image_filter", "debug_", "accept_mutex",
}

// callerDirectives said who may ask.
var callerDirectives = []string{"auth_jwt", "auth_request", "auth_basic", "ssl_verify_client"}

// answered have something in our place: what to say of each.
var answered = map[string]string{
	"access_log":             "the audit has each request, in /var/log/sallyport/audit.jsonl; docs/coming-from.md maps the variables",
	"log_format":             "the audit has its own fields; docs/coming-from.md maps the variables",
	"error_log":              "the daemon's log goes to the journal, refusals to the audit",
	"error_page":             "not carried: a refusal is JSON that says reason and rule, an origin's answer passes as it is",
	"proxy_send_timeout":     "there is no such timeout; stream_idle ends what moves in neither direction",
	"proxy_cookie_domain":    "not carried: a program that asks the origin itself gets its own cookies",
	"proxy_cookie_path":      "not carried: a program that asks the origin itself gets its own cookies",
	"proxy_cookie_flags":     "not carried: a program that asks the origin itself gets its own cookies",
	"proxy_ssl_conf_command": "not carried: TLS 1.2 or later, always verified",
}

// missing have nothing in our place, and refused nothing.
var missing = map[string]string{
	"limit_rate": "bandwidth is not limited", "limit_rate_after": "bandwidth is not limited",
	"mirror": "requests are not copied", "sub_filter": "content_filter can redact what must not be seen", "sub_filter_once": "content_filter can redact what must not be seen",
	"proxy_bind": "connections leave by the host's own routes", "proxy_ssl_crl": "revocation lists are not read: take a revoked authority out of tls.upstream_ca_files",
	"proxy_pass_request_headers": "headers.request.remove takes single ones away", "more_set_headers": "use headers.response.set", "more_clear_headers": "use headers.response.remove",
	"proxy_limit_rate": "bandwidth is not limited", "addition_types": "bodies are not rewritten", "add_trailer": "trailers pass as they are",
}

// harmlessFiles come with nginx and refuse nothing.
var harmlessFiles = []string{
	"mime.types", "proxy_params", "proxy.conf", "fastcgi_params", "fastcgi.conf", "uwsgi_params", "scgi_params", "koi-utf", "koi-win", "win-utf",
}

// survey looks once through the directives of a block for what is not carried:
// it notes them, and gives gates for what may have refused requests.
func (c *conversion) survey(d *directive) []convert.Gate {
	if gates, done := c.surveyed[d]; done {
		return gates
	}
	var gates []convert.Gate
	var tuned []*directive
	for _, x := range d.block {
		switch {
		case slices.Contains(callerDirectives, x.name) && x.arg(0) != "off":
			c.lost(x.Place, "%s: not carried: programs are known by their cgroup: name those that may in `workloads`; auth: { header, secret_file } asks for a key besides", x.name)
		case x.name == "include" && slices.Contains(harmlessFiles, filepath.Base(x.arg(0))):
			kind := convert.Tuning
			if strings.HasPrefix(filepath.Base(x.arg(0)), "proxy") {
				kind = convert.Lost
			}
			c.notes.Add(x.Place, kind, "include %s: not carried: it cannot be read (%s); convert again where it can be if you changed that file", x.arg(0), x.arg(1))
		case x.name == "include":
			gates = append(gates, convert.Gate{Place: x.Place, Reason: "include " + x.arg(0)})
			c.lost(x.Place, "include %s: not carried: it cannot be read (%s): convert again where it can be, or give the output of nginx -T; until you name workloads the rules here allow nobody", x.arg(0), x.arg(1))
		case x.name == "limit_conn":
			c.lost(x.Place, "limit_conn: not carried: connections are not counted; throttle bounds requests: until you name workloads the rules here allow nobody")
		case answered[x.name] != "":
			c.changed(x.Place, "%s: %s", x.name, answered[x.name])
		case missing[x.name] != "":
			c.lost(x.Place, "%s: not carried: %s", x.name, missing[x.name])
		case slices.Contains(carried, x.name):
		case slices.Contains(tuning, x.name), slices.ContainsFunc(tuningPrefixes, func(p string) bool { return strings.HasPrefix(x.name, p) }):
			tuned = append(tuned, x)
		default:
			what := "not known"
			if strings.Contains(x.name, "_by_lua") {
				what = "Lua is not carried"
			}
			gates = append(gates, convert.Gate{Place: x.Place, Reason: x.name})
			c.lost(x.Place, "%s: %s, and it may have refused or changed requests: look what it did; until you name workloads the rules here allow nobody", x.name, what)
		}
	}
	c.noteTuning(tuned)
	c.surveyed[d] = gates
	return gates
}

// noteTuning names the directives of one block in one note.
func (c *conversion) noteTuning(all []*directive) {
	if len(all) == 0 {
		return
	}
	var names []string
	for i, d := range all {
		name := d.name
		if i > 0 && d.Line != all[0].Line {
			name = fmt.Sprintf("%s (line %d)", d.name, d.Line)
		}
		if i > 0 && d.File != all[0].File {
			name = fmt.Sprintf("%s (%s)", d.name, d.Place)
		}
		names = append(names, name)
	}
	c.notes.Add(all[0].Place, convert.Tuning, "%s: nginx's own work or its callers' connections; nothing to do", strings.Join(names, ", "))
}
