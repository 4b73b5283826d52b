// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// rfc9293 is how many requirements of each kind RFC 9293, Appendix B has. They are numbered from 1.
var rfc9293 = map[string]int{"MUST": 69, "SHLD": 31, "MAY": 18, "REC": 1}

// testFolders are where the tests are that RFC9293.md names, from here.
var testFolders = map[string]string{
	"tcp": ".", "wire": "../wire", "userspace": "..", "bpf": "../../bpf", "vmtest": "../../vmtest",
}

func TestTheTableOfRFC9293(t *testing.T) {
	b, err := os.ReadFile("RFC9293.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]map[string]map[string]bool{}
	for name, dir := range testFolders {
		tests[name] = testsIn(t, dir)
	}
	quoted := regexp.MustCompile("`([a-z]+)\\.(Test[^/`]*)(?:/([^`]*))?`")
	seen, counts := map[string]bool{}, map[string]int{}
	for _, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.Contains(cells[1], "-") || strings.HasPrefix(cells[1], "---") {
			if len(cells) > 1 && (len(cells) != 7 || !strings.Contains(cells[1], "ReqID") && !strings.HasPrefix(cells[1], "---")) {
				t.Errorf("not a row: %s", line)
			}
			continue
		}
		id, here, shown, why := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[3]), strings.TrimSpace(cells[4]), strings.TrimSpace(cells[5])
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		counts[here]++
		switch here {
		case "yes":
			if shown == "" {
				t.Errorf("%s holds, and no test shows it", id)
			}
		case "partly", "no", "n/a":
			if why == "" {
				t.Errorf("%s is %q without a reason", id, here)
			}
		default:
			t.Errorf("%s is %q", id, here)
		}
		named := quoted.FindAllStringSubmatch(shown+why, -1)
		if n := len(named); n < strings.Count(shown, "`")/2 {
			t.Errorf("%s: not all of these are tests: %s", id, shown)
		}
		for _, m := range named {
			sub, ok := tests[m[1]][m[2]]
			switch {
			case !ok:
				t.Errorf("%s: there is no test %s.%s", id, m[1], m[2])
			case m[3] != "" && !sub[m[3]]:
				t.Errorf("%s: %s.%s has no subtest %q", id, m[1], m[2], m[3])
			}
		}
	}
	for kind, n := range rfc9293 {
		for i := range n {
			id := fmt.Sprintf("%s-%d", kind, i+1)
			if !seen[id] {
				t.Errorf("%s is missing", id)
			}
			delete(seen, id)
		}
	}
	for id := range seen {
		t.Errorf("RFC 9293 has no %s", id)
	}
	want := fmt.Sprintf("119 requirements: %d hold, %d hold in part, %d do not, %d do not apply to a responder.",
		counts["yes"], counts["partly"], counts["no"], counts["n/a"])
	if !strings.Contains(string(b), want) {
		t.Errorf("the sum is not there: %s", want)
	}
}

// testsIn finds the tests of a folder, and for each the strings in it: its subtests' names are among them.
func testsIn(t *testing.T, dir string) map[string]map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no tests (%v)", dir, err)
	}
	found := map[string]map[string]bool{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			literals := map[string]bool{}
			ast.Inspect(fn, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						literals[s] = true
					}
				}
				return true
			})
			found[fn.Name.Name] = literals
		}
	}
	return found
}
