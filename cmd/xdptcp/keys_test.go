// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// keysCommand runs `xdptcp keys` and returns its one output: stdout if it went well, else stderr.
func keysCommand(t *testing.T, code int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(context.Background(), append([]string{"keys"}, args...), &stdout, &stderr); got != code {
		t.Fatalf("keys %v: exit code %d, want %d; stderr: %s", args, got, code, &stderr)
	}
	if code == exitOK && stderr.Len() == 0 {
		return stdout.String()
	}
	if stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("keys %v: stdout %q, stderr %q; want one line on stderr", args, &stdout, &stderr)
	}
	return stderr.String()
}

func TestTheKeyOfAFleetIsChangedStepByStep(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	var all strings.Builder
	secrets := map[string]bool{}
	step := func(want string, args ...string) {
		t.Helper()
		out := keysCommand(t, exitOK, args...)
		if !regexp.MustCompile("(?s)" + want).MatchString(out) {
			t.Errorf("keys %v: want %q in it:\n%s", args, want, out)
		}
		all.WriteString(out)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range regexp.MustCompile("[0-9a-f]{32}").FindAllString(string(text), -1) {
			secrets[key] = true
		}
	}
	const mark = "[0-9a-f]{8}\n"
	step("generation 0 is active.*xdptcp attach IFACE --keys "+file, "generate", file)
	step("^generation 0  active +"+mark+"timestamp +"+mark+"$", "list", file)
	step("generation 1 is accepted, and not used yet.*xdptcp keys activate "+file+" 1\n", "add", file)
	step("^generation 0  active +"+mark+"generation 1  accepted +"+mark+"timestamp +"+mark+"$", "list", file)
	step("generation 1 is active, 0 is still accepted.*at least 70 s.*xdptcp keys drop "+file+" 0\n", "activate", file, "1")
	step("generation 0 is gone.*copy the file to every host", "drop", file, "0")
	step("^generation 1  active +"+mark+"timestamp +"+mark+"$", "list", file)

	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		file + " exists": {"generate", file},
		"generation 1 is active: activate another": {"drop", file, "1"},
		"generation 1 is active already":           {"activate", file, "1"},
		"generation 3 has no key: there are 1":     {"activate", file, "3"},
		"generation 2 has no key":                  {"drop", file, "2"},
		"keys generate " + file + "x":              {"list", file + "x"},
	} {
		if out := keysCommand(t, exitError, args...); !strings.Contains(out, want) {
			t.Errorf("keys %v: %q, want %q", args, out, want)
		}
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, before) {
		t.Errorf("a refusal, or list, has changed the file (%v)", err)
	}

	var report struct {
		Keys []struct {
			Generation       int
			Use, Fingerprint string
		}
		Timestamp struct{ Fingerprint string }
	}
	out := keysCommand(t, exitOK, "list", file, "--json")
	all.WriteString(out)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Keys) != 1 || report.Keys[0].Generation != 1 || report.Keys[0].Use != "active" ||
		!strings.Contains(all.String(), report.Keys[0].Fingerprint+"\n") || len(report.Timestamp.Fingerprint) != 8 {
		t.Errorf("%+v", report)
	}
	if len(secrets) != 3 {
		t.Fatalf("%d keys were in the file over time, want 3", len(secrets))
	}
	for key := range secrets {
		if strings.Contains(all.String(), key[:16]) || strings.Contains(all.String(), key[16:]) {
			t.Errorf("a key was printed:\n%s", &all)
		}
	}

	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list", file}, {"add", file}, {"activate", file, "1"}, {"drop", file, "1"}} {
		if out := keysCommand(t, exitError, args...); !strings.Contains(out, "chmod 600 "+file) {
			t.Errorf("keys %v of a file that all may read: %q", args, out)
		}
	}
}
