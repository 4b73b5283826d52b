// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// An expression that one of the files holds, and where.
type expression struct{ where, expr string }

func dashboardExpressions(t *testing.T) (list []expression) {
	t.Helper()
	var dashboard struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
	}
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal("dashboard.json:", err)
	}
	if dashboard.Title == "" || dashboard.UID == "" || dashboard.SchemaVersion == 0 {
		t.Error("dashboard.json: Grafana wants title, uid and schemaVersion")
	}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("dashboard.json: panel id %d twice", p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 {
			t.Errorf("dashboard.json: panel %q leaves the grid of 24 columns", p.Title)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("dashboard.json: panel %q has no query", p.Title)
		}
		for _, target := range p.Targets {
			list = append(list, expression{"dashboard.json, " + p.Title, target.Expr})
		}
	}
	for _, v := range dashboard.Templating.List {
		if q, ok := v.Query.(map[string]any); ok {
			list = append(list, expression{"dashboard.json, variable " + v.Name, q["query"].(string)})
		}
	}
	return list
}

func alertExpressions(t *testing.T) (list []expression) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal("alerts.yaml:", err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.For == "" || r.Labels["severity"] == "" ||
				r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alerts.yaml: rule %q lacks for, severity, summary or description", r.Alert)
			}
			list = append(list, expression{"alerts.yaml, " + r.Alert, r.Expr})
		}
	}
	return list
}

var (
	metricName = regexp.MustCompile(`\bxdptcp_\w+`)
	selector   = regexp.MustCompile(`\b(xdptcp_\w+)\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`(\w+)\s*(=~|=|!=|!~)\s*"([^"]*)"`)
	grouping   = regexp.MustCompile(`\b(?:by|on|without)\s*\(([^)]*)\)`)
)

func TestFilesNameOnlyWhatIsExported(t *testing.T) {
	exported := map[string][]string{} // metric names with their labels
	values := map[string]bool{}       // name{label="value"
	for _, f := range families {
		labels := append([]string{"interface", "instance", "job"}, f.labels...)
		exported["xdptcp_"+f.name] = labels
		if strings.HasSuffix(f.name, "_seconds") { // the histogram
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				exported["xdptcp_"+f.name+suffix] = append(labels, "le")
			}
		}
	}
	for line := range strings.Lines(series(t, NewCollector(newFakeSource()))) {
		for _, s := range selector.FindAllStringSubmatch(line, -1) {
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				values[s[1]+m[1]+m[3]] = true
			}
		}
	}
	// The fake source has one interface and one mode only.
	variable := []string{"interface", "instance", "job", "mode", "version", "queue", "le"}

	list := append(dashboardExpressions(t), alertExpressions(t)...)
	if len(list) < 40 {
		t.Fatalf("only %d expressions found: the test is blind", len(list))
	}
	for _, e := range list {
		used := []string{}
		for _, name := range metricName.FindAllString(e.expr, -1) {
			labels, ok := exported[name]
			if !ok {
				t.Errorf("%s: %s is not exported", e.where, name)
			}
			used = append(used, labels...)
		}
		for _, s := range selector.FindAllStringSubmatch(e.expr, -1) {
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if !slices.Contains(exported[s[1]], m[1]) {
					t.Errorf("%s: %s has no label %s", e.where, s[1], m[1])
				}
				if slices.Contains(variable, m[1]) {
					continue
				}
				for value := range strings.SplitSeq(m[3], "|") {
					if !values[s[1]+m[1]+value] {
						t.Errorf("%s: %s never has %s=%q", e.where, s[1], m[1], value)
					}
				}
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(e.expr, -1) {
			for label := range strings.SplitSeq(g[1], ",") {
				if label = strings.TrimSpace(label); label != "" && !slices.Contains(used, label) {
					t.Errorf("%s: no metric in it has the label %s", e.where, label)
				}
			}
		}
	}
}
