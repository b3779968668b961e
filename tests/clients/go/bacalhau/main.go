// Command bacalhau drives a Jobledger service with Bacalhau's own Go API client and prints, as JSON, what
// each call returned. The test that runs it compares the values; this program only calls and records.
//
// Environment: JOBLEDGER_TEST_URL, the service; JOBLEDGER_TEST_TOKEN, an API token. Without a token the
// client logs in first, as the `bacalhau` command does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bacalhau-project/bacalhau/pkg/bacerrors"
	"github.com/bacalhau-project/bacalhau/pkg/models"
	"github.com/bacalhau-project/bacalhau/pkg/publicapi/apimodels"
	client "github.com/bacalhau-project/bacalhau/pkg/publicapi/client/v2"
)

const sessionTimeout = 60 * time.Second

// failure is what the client made of a refusal.
type failure struct {
	Error  string
	Code   string
	Status int
	Hint   string
}

type session struct {
	steps map[string]any
}

// record keeps a call's result, or what the client made of its error.
func record[T any](s *session, step string, result T, err error) T {
	if err == nil {
		s.steps[step] = result
		return result
	}
	refused := failure{Error: err.Error()}
	var coded bacerrors.Error
	if errors.As(err, &coded) {
		refused.Code = string(coded.Code())
		refused.Status = coded.HTTPStatusCode()
		refused.Hint = coded.Hint()
	}
	s.steps[step] = refused
	return result
}

// logIn does what `bacalhau` does without a credential: it asks for the methods and takes the challenge.
func logIn(s *session) func(context.Context, *client.Auth) (*apimodels.HTTPCredential, error) {
	return func(ctx context.Context, auth *client.Auth) (*apimodels.HTTPCredential, error) {
		methods, err := auth.Methods(ctx, &apimodels.ListAuthnMethodsRequest{})
		record(s, "auth.methods", methods, err)
		if err != nil {
			return nil, err
		}
		if len(methods.Methods) == 0 {
			return nil, errors.New("the service wants an API key")
		}
		for name := range methods.Methods {
			answer, err := auth.Authenticate(ctx, &apimodels.AuthnRequest{Name: name, MethodData: []byte("{}")})
			record(s, "auth.authenticate", answer, err)
			if err != nil {
				return nil, err
			}
			return &apimodels.HTTPCredential{Scheme: "Bearer", Value: answer.Authentication.Token}, nil
		}
		return nil, nil
	}
}

func newAPI(s *session, url, token string) client.API {
	authenticating := &client.AuthenticatingClient{
		Client:            client.NewHTTPClient(url, client.WithTimeout(sessionTimeout)),
		PersistCredential: func(*apimodels.HTTPCredential) error { return nil },
		Authenticate:      logIn(s),
	}
	if token != "" {
		authenticating.Credential = &apimodels.HTTPCredential{Scheme: "Bearer", Value: token}
		authenticating.NewAuthenticationFlowEnabled = true
	}
	return client.NewAPI(authenticating)
}

// newJob is a job with every zero value that a typed client sends.
func newJob(name, image string) *models.Job {
	job := &models.Job{
		Name:   name,
		Type:   models.JobTypeBatch,
		Count:  1,
		Labels: map[string]string{"from": "go"},
		Tasks: []*models.Task{{
			Name:   "main",
			Engine: &models.SpecConfig{Type: "docker", Params: map[string]any{"Image": image}},
		}},
	}
	job.Normalize()
	return job
}

func run(ctx context.Context, s *session, url, token string) {
	api := newAPI(s, url, token)
	jobs := api.Jobs()

	version, err := api.Agent().Version(ctx)
	record(s, "agent.version", version, err)
	alive, err := api.Agent().Alive(ctx)
	record(s, "agent.alive", alive, err)

	put := &apimodels.PutJobRequest{Job: newJob("from-go", "busybox:1")}
	first, err := jobs.Put(ctx, put)
	record(s, "put", first, err)
	again, err := jobs.Put(ctx, put)
	record(s, "put_again", again, err)
	compared, err := jobs.Diff(ctx, &apimodels.DiffJobRequest{Job: newJob("from-go", "busybox:2")})
	record(s, "diff", compared, err)
	same, err := jobs.Diff(ctx, &apimodels.DiffJobRequest{Job: newJob("from-go", "busybox:1")})
	record(s, "diff_same", same, err)
	changed, err := jobs.Put(ctx, &apimodels.PutJobRequest{Job: newJob("from-go", "busybox:2")})
	record(s, "put_changed", changed, err)

	got, err := jobs.Get(ctx, &apimodels.GetJobRequest{JobIDOrName: "from-go", Include: "history,executions"})
	record(s, "get", got, err)
	old, err := jobs.Get(ctx, &apimodels.GetJobRequest{JobIDOrName: "from-go", JobVersion: 1})
	record(s, "get_version", old, err)

	history, err := jobs.History(ctx, &apimodels.ListJobHistoryRequest{JobIDOrName: "from-go", EventType: "all"})
	record(s, "history", history, err)
	executions, err := jobs.Executions(ctx, &apimodels.ListJobExecutionsRequest{JobIDOrName: "from-go"})
	record(s, "executions", executions, err)
	results, err := jobs.Results(ctx, &apimodels.ListJobResultsRequest{JobID: "from-go"})
	record(s, "results", results, err)
	versions, err := jobs.Versions(ctx, &apimodels.ListJobVersionsRequest{JobIDOrName: "from-go"})
	record(s, "versions", versions, err)

	stopped, err := jobs.Stop(ctx, &apimodels.StopJobRequest{JobID: "from-go", Reason: "enough"})
	record(s, "stop", stopped, err)
	afterStop, err := jobs.Get(ctx, &apimodels.GetJobRequest{JobIDOrName: "from-go"})
	record(s, "get_stopped", afterStop, err)
	rerun, err := jobs.Rerun(ctx, &apimodels.RerunJobRequest{JobIDOrName: "from-go", JobVersion: 1, Reason: "again"})
	record(s, "rerun", rerun, err)
	afterRerun, err := jobs.Get(ctx, &apimodels.GetJobRequest{JobIDOrName: "from-go"})
	record(s, "get_rerun", afterRerun, err)

	for index := range 3 {
		_, err = jobs.Put(ctx, &apimodels.PutJobRequest{Job: newJob(fmt.Sprintf("more-%d", index), "busybox:1")})
		record(s, fmt.Sprintf("put_more_%d", index), index, err)
	}
	list := &apimodels.ListJobsRequest{}
	list.Limit = 2
	page, err := jobs.List(ctx, list)
	record(s, "list", page, err)
	if page != nil {
		list.NextToken = page.NextToken
	}
	rest, err := jobs.List(ctx, list)
	record(s, "list_next", rest, err)

	missing, err := jobs.Get(ctx, &apimodels.GetJobRequest{JobIDOrName: "missing"})
	record(s, "error.get", missing, err)
	none, err := jobs.History(ctx, &apimodels.ListJobHistoryRequest{JobIDOrName: "missing"})
	record(s, "error.history", none, err)
	logs, err := jobs.Logs(ctx, &apimodels.GetLogsRequest{JobID: "from-go", Follow: true})
	if err == nil {
		err = (<-logs).Err
	}
	record(s, "error.logs", 0, err)
	bad := newJob("bad", "busybox:1")
	bad.Type = "nonsense"
	refused, err := jobs.Put(ctx, &apimodels.PutJobRequest{Job: bad})
	record(s, "error.put", refused, err)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), sessionTimeout)
	defer cancel()
	s := &session{steps: map[string]any{}}
	run(ctx, s, os.Getenv("JOBLEDGER_TEST_URL"), os.Getenv("JOBLEDGER_TEST_TOKEN"))
	if err := json.NewEncoder(os.Stdout).Encode(s.steps); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
