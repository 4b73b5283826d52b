// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheREADMEsGoProgramIsTheCompiledExample(t *testing.T) {
	_, block, ok := strings.Cut(readme(t), "```go\n")
	block, _, ok2 := strings.Cut(block, "```")
	if !ok || !ok2 {
		t.Fatal("README.md has no Go block")
	}
	example, err := os.ReadFile("../userspace/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	// The function's body is the block, one tab deeper.
	indented := "\t" + strings.ReplaceAll(strings.TrimSpace(block), "\n", "\n\t")
	if !strings.Contains(string(example), strings.ReplaceAll(indented, "\n\t\n", "\n\n")) {
		t.Error("userspace/example_test.go does not contain the README's Go block")
	}
}

func TestTheREADMEsMakeTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile("make ([a-z-]+)").FindAllStringSubmatch(readme(t), -1)
	if len(targets) < 4 {
		t.Fatalf("only %d make commands found in README.md", len(targets))
	}
	for _, m := range targets {
		if !strings.Contains(string(makefile), "\n"+m[1]+":") {
			t.Errorf("README.md says %q, which the Makefile does not have", m[0])
		}
	}
}

func TestTheREADMEsFirstCommandWorks(t *testing.T) {
	lab.Need(t)
	out, err := exec.Command("make", "-C", "..", "demo").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "cookie valid, flow opened") {
		t.Errorf("make demo: %v\n%s", err, out)
	}
}

func TestTheREADMEsTableOfFlagsIsThatOfTheCommand(t *testing.T) {
	out, err := exec.Command("go", "run", "../cmd/xdptcp", "attach", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inHelp := regexp.MustCompile(`(?m)^ +(?:-h, )?(--[a-z-]+)`)
	text := readme(t)
	for _, m := range inHelp.FindAllStringSubmatch(string(out), -1) {
		if m[1] != "--help" && !strings.Contains(text, "`"+m[1]) {
			t.Errorf("README.md does not tell of %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(--[a-z-]+)").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(string(out), m[1]) {
			t.Errorf("README.md tells of %s, which attach does not have", m[1])
		}
	}
}
