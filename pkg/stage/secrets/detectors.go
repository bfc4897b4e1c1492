package secrets

// A detector describes one kind of secret, in the shape of gitleaks' rules.
type detector struct {
	// id appears in audit events and in what stands in the place of a secret.
	id string
	// keywords are what every match contains, for the reader and for the measure
	// of what a scan for them alone would cost; "" is a run of digits.
	keywords []string
	expr     string
	// entropy is the least of a match, in bits a byte: what is below is a
	// placeholder.
	entropy float64
	// check, where it is set, is asked about front, match and rear.
	check func(front, match, rear []byte) bool
}

// detectors are in the order in which a match is attributed. An expression
// begins with something rare: what may be the beginning of a match is held back.
var detectors = []detector{
	{id: "credit-card", keywords: []string{""}, check: isCard,
		expr: `\b(?:4\d{3}|5[1-5]\d{2}|2(?:22[1-9]|2[3-9]\d|[3-6]\d{2}|7[01]\d|720)|6(?:011|5\d{2}|4[4-9]\d)|35(?:2[89]|[3-8]\d))[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}\b|\b3[47]\d{2}[ -]?\d{6}[ -]?\d{5}\b`},

	{id: "aws-access-key-id", keywords: []string{"AKIA", "ASIA", "ABIA", "ACCA"}, entropy: 3, check: noExample,
		expr: `\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b`},
	{id: "aws-secret-access-key", keywords: []string{"aws_secret", "awssecret", "secretaccesskey", "secret_access_key"}, entropy: 4, check: noExample,
		expr: `(?i:aws_?secret(?:_?access)?_?key|secret_?access_?key)["']?\s{0,4}(?:=>|[:=,])\s{0,4}["']?[A-Za-z0-9/+]{40}\b`},
	{id: "aws-bedrock-key", keywords: []string{"ABSK", "bedrock-api-key-"}, entropy: 3,
		expr: `\bABSK[A-Za-z0-9+/]{109,269}={0,2}|\bbedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t[A-Za-z0-9+/=]*`},
	{id: "gcp-api-key", keywords: []string{"AIza"}, entropy: 3.5, expr: `\bAIza[\w-]{35}\b`},
	{id: "gcp-oauth-token", keywords: []string{"ya29."}, entropy: 3.5, expr: `\bya29\.[\w-]{30,}`},
	{id: "gcp-oauth-secret", keywords: []string{"GOCSPX-"}, entropy: 3, expr: `\bGOCSPX-[\w-]{28}`},
	{id: "azure-storage-key", keywords: []string{"AccountKey="}, entropy: 4, expr: `\bAccountKey=[A-Za-z0-9+/]{86}==`},
	{id: "azure-shared-access-key", keywords: []string{"SharedAccessKey="}, entropy: 4, expr: `\bSharedAccessKey=[A-Za-z0-9+/]{43}=`},
	{id: "azure-client-secret", keywords: []string{"Q~"}, entropy: 3, expr: `\b[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34}`},
	{id: "azure-sas", keywords: []string{"sig="}, entropy: 4, expr: `\bsig=(?:[A-Za-z0-9%]{40,80}%3[dD]|[A-Za-z0-9+/]{43}=)`},
	{id: "alibaba-access-key-id", keywords: []string{"LTAI"}, entropy: 3, expr: `\bLTAI[A-Za-z0-9]{20}\b`},
	{id: "digitalocean-token", keywords: []string{"dop_v1_", "doo_v1_", "dor_v1_"}, entropy: 3, expr: `\bdo[por]_v1_[0-9a-f]{64}\b`},
	{id: "cloudflare-origin-ca-key", keywords: []string{"v1.0-"}, entropy: 3, expr: `\bv1\.0-[0-9a-f]{24}-[0-9a-f]{146}\b`},
	{id: "databricks-token", keywords: []string{"dapi"}, entropy: 3, expr: `\bdapi[0-9a-f]{32}(?:-\d)?\b`},

	{id: "github-token", keywords: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, entropy: 3, expr: `\bgh[pousr]_[A-Za-z0-9]{36,255}`},
	{id: "github-fine-grained-token", keywords: []string{"github_pat_"}, entropy: 3, expr: `\bgithub_pat_\w{82}`},
	{id: "gitlab-token", keywords: []string{"glpat-", "glptt-", "gldt-", "glrt-", "glcbt-", "glft-", "glsoat-", "glagent-", "gloas-", "glimt-"}, entropy: 3,
		expr: `\bgl(?:pat|ptt|dt|rt|cbt|ft|soat|agent|oas|imt)-[\w-]{20,}(?:\.[\w.]{2,20})?`},
	{id: "atlassian-token", keywords: []string{"ATATT3", "ATCTT3"}, entropy: 3.5, expr: `\bAT[AC]TT3[\w=-]{100,220}`},
	{id: "npm-token", keywords: []string{"npm_"}, entropy: 3, expr: `\bnpm_[A-Za-z0-9]{36}\b`},
	{id: "pypi-token", keywords: []string{"pypi-Ag"}, entropy: 3, expr: `\bpypi-Ag(?:EIcHlwaS5vcmc|ENdGVzdC5weXBpLm9yZw)[\w-]{50,}`},
	{id: "rubygems-token", keywords: []string{"rubygems_"}, entropy: 2, expr: `\brubygems_[0-9a-f]{48}\b`},
	{id: "docker-token", keywords: []string{"dckr_pat_", "dckr_oat_"}, entropy: 3, expr: `\bdckr_[po]at_[\w-]{27,}`},

	{id: "slack-token", keywords: []string{"xoxa-", "xoxb-", "xoxe-", "xoxe.", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-"}, entropy: 2.5,
		expr: `\bxox[abeoprs][.-](?:xox[bp]-)?[0-9A-Za-z-]{10,}|\bxapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+`},
	{id: "slack-webhook", keywords: []string{"hooks.slack.com"}, expr: `\bhooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{40,60}`},
	{id: "discord-webhook", keywords: []string{"/api/webhooks/"}, expr: `\bdiscord(?:app)?\.com/api/webhooks/\d{17,20}/[\w-]{60,70}`},
	{id: "telegram-token", keywords: []string{":AA"}, entropy: 3.5, expr: `\b\d{8,10}:AA[\w-]{33}\b`},
	{id: "sendgrid-token", keywords: []string{"SG."}, entropy: 3, expr: `\bSG\.[\w-]{22}\.[\w-]{43}\b`},
	{id: "twilio-key", keywords: []string{"SK"}, entropy: 3, expr: `\bSK[0-9a-f]{32}\b`},
	{id: "mailgun-key", keywords: []string{"key-"}, entropy: 3, expr: `\bkey-[0-9a-f]{32}\b`},

	{id: "anthropic-key", keywords: []string{"sk-ant-"}, entropy: 3.5, expr: `\bsk-ant-(?:api|admin|oat|ort|sid)\d{2}-[\w-]{80,}`},
	{id: "openai-key", keywords: []string{"sk-proj-", "sk-svcacct-", "sk-admin-", "T3BlbkFJ"}, entropy: 3.5,
		expr: `\bsk-(?:proj|svcacct|admin)-[\w-]{40,}|\bsk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}\b`},
	{id: "huggingface-token", keywords: []string{"hf_"}, entropy: 3, expr: `\bhf_[A-Za-z]{34}\b`},
	{id: "groq-key", keywords: []string{"gsk_"}, entropy: 3, expr: `\bgsk_[A-Za-z0-9]{52}\b`},
	{id: "perplexity-key", keywords: []string{"pplx-"}, entropy: 3, expr: `\bpplx-[A-Za-z0-9]{48}\b`},
	{id: "replicate-token", keywords: []string{"r8_"}, entropy: 3, expr: `\br8_[A-Za-z0-9]{37}\b`},
	{id: "xai-key", keywords: []string{"xai-"}, entropy: 3, expr: `\bxai-[A-Za-z0-9]{80}\b`},

	{id: "stripe-key", keywords: []string{"sk_live_", "sk_test_", "sk_prod_", "rk_live_", "rk_test_", "rk_prod_"}, entropy: 2.5,
		expr: `\b[sr]k_(?:live|test|prod)_[A-Za-z0-9]{16,247}`},
	{id: "stripe-webhook-secret", keywords: []string{"whsec_"}, entropy: 3, expr: `\bwhsec_[A-Za-z0-9+/]{32,}={0,2}`},
	{id: "square-token", keywords: []string{"sq0atp-", "sq0csp-"}, entropy: 2.5, expr: `\bsq0(?:atp-[\w-]{22}|csp-[\w-]{43})`},
	{id: "shopify-token", keywords: []string{"shpat_", "shpca_", "shppa_", "shpss_"}, entropy: 2.5, expr: `\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b`},
	{id: "linear-key", keywords: []string{"lin_api_"}, entropy: 3, expr: `\blin_api_[A-Za-z0-9]{40}\b`},
	{id: "notion-token", keywords: []string{"ntn_"}, entropy: 3, expr: `\bntn_\d{11}[A-Za-z0-9]{32,35}`},
	{id: "figma-token", keywords: []string{"figd_"}, entropy: 3, expr: `\bfigd_[\w-]{40,}`},
	{id: "airtable-token", keywords: []string{"pat"}, entropy: 3, expr: `\bpat[A-Za-z0-9]{14}\.[0-9a-f]{64}\b`},
	{id: "dropbox-token", keywords: []string{"sl."}, entropy: 3.5, expr: `\bsl\.(?:u\.)?[\w-]{120,}`},
	{id: "postman-key", keywords: []string{"PMAK-"}, entropy: 3, expr: `\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b`},
	{id: "newrelic-key", keywords: []string{"NRAK-"}, entropy: 3, expr: `\bNRAK-[A-Z0-9]{27}\b`},
	{id: "grafana-token", keywords: []string{"glsa_", "glc_eyJ"}, entropy: 3, expr: `\bglsa_[A-Za-z0-9]{32}_[0-9A-Fa-f]{8}\b|\bglc_eyJ[A-Za-z0-9+/]{30,}={0,2}`},
	{id: "sentry-token", keywords: []string{"sntrys_eyJ", "sntryu_"}, entropy: 3, expr: `\bsntrys_eyJ[\w+/=]{40,}|\bsntryu_[0-9a-f]{64}\b`},
	{id: "doppler-token", keywords: []string{"dp.pt.", "dp.st.", "dp.ct.", "dp.sa."}, entropy: 2.5, expr: `\bdp\.(?:pt|ct|sa|st(?:\.[\w-]{2,35})?)\.[A-Za-z0-9]{40,44}\b`},
	{id: "vault-token", keywords: []string{"hvs.", "hvb.", "hvr."}, entropy: 3, expr: `\bhv[sbr]\.[\w-]{24,300}`},
	{id: "terraform-token", keywords: []string{".atlasv1."}, entropy: 3.5, expr: `\.atlasv1\.[\w-]{60,70}`},
	{id: "heroku-key", keywords: []string{"HRKU-"}, entropy: 3, expr: `\bHRKU-[\w-]{36,64}`},
	{id: "planetscale-token", keywords: []string{"pscale_"}, entropy: 3, expr: `\bpscale_(?:tkn|oauth|pw)_[\w.=-]{32,64}`},
	{id: "age-secret-key", keywords: []string{"AGE-SECRET-KEY-1"}, expr: `\bAGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}\b`},

	// With what follows of the key itself, be its newlines escaped or not.
	{id: "private-key", keywords: []string{"-----BEGIN"}, check: isPrivateKey,
		expr: `-----BEGIN[ A-Z0-9_-]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=\s:,.()-]|\\+[nr])*`},
	{id: "jwt", keywords: []string{"eyJ"}, entropy: 3, check: isJWT, expr: `\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}`},
}
