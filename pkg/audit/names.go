package audit

import "github.com/go-json-experiment/json/jsontext"

// The field names of an event, on which readers of the audit rely, each with its
// leading comma or brace left to the encoder. The decoder's struct below repeats
// them as tags; a test writes every field and reads it back.
const (
	nameTime        = `"time":`
	nameEvent       = `"event":`
	nameKind        = `"kind":`
	nameVerdict     = `"verdict":`
	nameReason      = `"reason":`
	nameRule        = `"rule":`
	nameMode        = `"mode":`
	nameWorkload    = `"workload":`
	nameFlow        = `"flow":`
	nameDst         = `"dst":`
	nameTLS         = `"tls":`
	nameHTTP        = `"http":`
	nameWebSocket   = `"websocket":`
	nameDNS         = `"dns":`
	nameCache       = `"cache":`
	nameUpstream    = `"upstream":`
	nameTraceparent = `"traceparent":`
	nameDuration    = `"duration":`
	nameDirection   = `"direction":`
	nameCount       = `"count":`
	nameCounters    = `"counters":`
	nameMessage     = `"message":`
	namePrev        = `"prev":`
	nameHash        = `"hash":`

	nameName      = `"name":`
	nameCgroup    = `"cgroup":`
	nameUnit      = `"unit":`
	nameContainer = `"container":`
	namePID       = `"pid":`
	nameUID       = `"uid":`
	nameExe       = `"exe":`

	nameIP   = `"ip":`
	namePort = `"port":`
	nameHost = `"host":`

	nameSNI             = `"sni":`
	nameALPN            = `"alpn":`
	nameVersion         = `"version":`
	nameHandling        = `"handling":`
	nameUpstreamVersion = `"upstream_version":`

	nameMethod          = `"method":`
	nameScheme          = `"scheme":`
	namePath            = `"path":`
	nameQuery           = `"query":`
	nameStatus          = `"status":`
	nameRequestBytes    = `"request_bytes":`
	nameResponseBytes   = `"response_bytes":`
	nameRequestHeaders  = `"request_headers":`
	nameResponseHeaders = `"response_headers":`
	nameRequestBody     = `"request_body":`
	nameResponseBody    = `"response_body":`
	nameTruncated       = `"truncated":`

	nameMessagesSent     = `"messages_sent":`
	nameMessagesReceived = `"messages_received":`
	nameCloseCode        = `"close_code":`

	nameType    = `"type":`
	nameAnswers = `"answers":`
	nameRcode   = `"rcode":`

	nameTarget   = `"target":`
	nameAttempts = `"attempts":`

	nameTotal  = `"total":`
	nameQueued = `"queued":`

	nameBytesSent     = `"bytes_sent":`
	nameBytesReceived = `"bytes_received":`
	nameSegments      = `"segments":`
	nameRetransmits   = `"retransmits":`
	nameRTT           = `"rtt":`
)

// wire is a line as encoding/json reads it. Durations are kept as the text of
// the number, so that nanoseconds survive.
type wire struct {
	Time     string `json:"time"`
	Event    string `json:"event"`
	Kind     string `json:"kind"`
	Verdict  string `json:"verdict"`
	Reason   string `json:"reason"`
	Rule     string `json:"rule"`
	Mode     string `json:"mode"`
	Workload struct {
		Name      string `json:"name"`
		Cgroup    string `json:"cgroup"`
		Unit      string `json:"unit"`
		Container string `json:"container"`
		PID       uint32 `json:"pid"`
		UID       uint32 `json:"uid"`
		Exe       string `json:"exe"`
	} `json:"workload"`
	Flow uint64 `json:"flow"`
	Dst  struct {
		IP   string `json:"ip"`
		Port uint16 `json:"port"`
		Host string `json:"host"`
	} `json:"dst"`
	TLS struct {
		SNI             string `json:"sni"`
		ALPN            string `json:"alpn"`
		Version         string `json:"version"`
		Handling        string `json:"handling"`
		UpstreamVersion string `json:"upstream_version"`
	} `json:"tls"`
	HTTP struct {
		Version         string            `json:"version"`
		Method          string            `json:"method"`
		Scheme          string            `json:"scheme"`
		Host            string            `json:"host"`
		Path            string            `json:"path"`
		Query           string            `json:"query"`
		Status          int               `json:"status"`
		RequestBytes    int64             `json:"request_bytes"`
		ResponseBytes   int64             `json:"response_bytes"`
		RequestHeaders  map[string]string `json:"request_headers"`
		ResponseHeaders map[string]string `json:"response_headers"`
		RequestBody     string            `json:"request_body"`
		ResponseBody    string            `json:"response_body"`
		Truncated       bool              `json:"truncated"`
	} `json:"http"`
	WebSocket struct {
		MessagesSent     uint64 `json:"messages_sent"`
		MessagesReceived uint64 `json:"messages_received"`
		CloseCode        uint16 `json:"close_code"`
	} `json:"websocket"`
	DNS struct {
		Name    string   `json:"name"`
		Type    string   `json:"type"`
		Answers []string `json:"answers"`
		Rcode   string   `json:"rcode"`
	} `json:"dns"`
	Cache    string `json:"cache"`
	Upstream struct {
		Target   string `json:"target"`
		IP       string `json:"ip"`
		Attempts int    `json:"attempts"`
	} `json:"upstream"`
	Traceparent string `json:"traceparent"`
	Duration    struct {
		Total    jsontext.Value `json:"total"`
		Upstream jsontext.Value `json:"upstream"`
		Queued   jsontext.Value `json:"queued"`
	} `json:"duration"`
	Direction string `json:"direction"`
	Count     uint64 `json:"count"`
	Counters  struct {
		Workload wireLeg `json:"workload"`
		Upstream wireLeg `json:"upstream"`
	} `json:"counters"`
	Message string `json:"message"`
	Prev    string `json:"prev"`
	Hash    string `json:"hash"`
}

type wireLeg struct {
	BytesSent     uint64         `json:"bytes_sent"`
	BytesReceived uint64         `json:"bytes_received"`
	Segments      uint64         `json:"segments"`
	Retransmits   uint64         `json:"retransmits"`
	RTT           jsontext.Value `json:"rtt"`
}
