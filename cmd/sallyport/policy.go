package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/pkg/admin"
	"sallyport/pkg/admin/show"
	"sallyport/pkg/agent"
	"sallyport/pkg/config"
	"sallyport/pkg/policy"
)

func (e *env) policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "policy",
		Short:   "Explain what the policy decides",
		Example: "  sallyport policy explain --workload github https://api.github.com/repos/o/r",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(e.policyExplainCommand(), unbuiltCommand("test"), unbuiltCommand("learn"))
	return c
}

func (e *env) policyExplainCommand() *cobra.Command {
	var r admin.ExplainRequest
	var headers []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain --workload W URL",
		Short: "Decide a request and tell of every rule on the way",
		Long: `Decides a made-up request by the configuration file: the rule that decides, and
every rule before it with the reason why it was passed over. Nothing is contacted.
Addresses are judged only where the URL has one instead of a name. Of limits,
filters and the other stages of the rule it says which there are.`,
		Example: `  sallyport policy explain --workload github https://api.github.com/repos/o/r
  sallyport policy explain --workload db tcp://10.0.0.5:5432
  sallyport policy explain --workload w --method POST --header 'Accept: text/html' https://example.com/`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r.URL = args[0]
			for _, h := range headers {
				name, value, ok := strings.Cut(h, ":")
				if !ok {
					return usageError{fmt.Errorf("policy explain: header %q: want Name: value", h)}
				}
				r.Headers = append(r.Headers, admin.Header{Name: name, Value: strings.TrimSpace(value)})
			}
			conf, err := loadConfig(c, config.Observe)
			if err != nil {
				return err
			}
			p, err := policy.Compile(conf)
			if err != nil {
				return configError(err)
			}
			x, err := agent.Explain(conf, p, &r)
			if errors.Is(err, admin.ErrBadRequest) {
				return usageError{fmt.Errorf("policy explain: %w", err)}
			} else if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(e.stdout).Encode(x)
			}
			return show.Explanation(e.stdout, x)
		},
	}
	c.Flags().StringVar(&r.Workload, "workload", "", "`name` of the workload that would ask")
	c.Flags().StringVar(&r.Method, "method", "GET", "HTTP `method`")
	c.Flags().StringArrayVar(&headers, "header", nil, "header `field` as K:V, repeatable")
	c.Flags().String("body", "", "`file` with the request's body")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		switch {
		case c.Flags().Changed("body"):
			return usageError{errors.New("policy explain: --body: not built yet: no rule matches by a body, and filters are not tried")}
		case r.Workload == "":
			return wrongUse(c, errors.New("--workload is missing"))
		}
		return nil
	}
	return c
}
