// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	hexA = "000102030405060708090a0b0c0d0e0f" // testSet's generation 1
	hexB = "101112131415161718191a1b1c1d1e1f" // and 2
	hexT = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf" // its timestamp key
)

func TestAKeyFileIsWhatTheDescriptionSays(t *testing.T) {
	want := "xdptcp-keys 1\ntimestamp " + hexT + "\nkey 1 active " + hexA + "\nkey 2 accepted " + hexB + "\nend\n"
	header, rest, ok := strings.Cut(string(testSet().Encode()), "\nxdptcp")
	if !ok || "xdptcp"+rest != want {
		t.Errorf("%q, want %q", rest, want)
	}
	for line := range strings.Lines(header) {
		if !strings.HasPrefix(line, "# ") {
			t.Errorf("a header line that is no comment: %q", line)
		}
	}
	// By hand one may write it like this:
	got, err := ParseKeys([]byte("\n  # mine\nxdptcp-keys\t1\n\nkey 2  accepted " + hexB + "\r\n#\nkey 1 active " + hexA + " \ntimestamp " + hexT + "\nend\n\n# bye\n"))
	if err != nil || got != testSet() {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAKeyFileReadsBackAsWritten(t *testing.T) {
	s := generated(t)
	for range 20 {
		got, err := ParseKeys(s.Encode())
		if err != nil || got != s {
			t.Fatalf("%v, %v; want %v", got, err, s)
		}
		if next, _, err := s.Add(); err == nil {
			s = next
			continue
		}
		old := s.Active()
		s, err = s.Activate((old + 1) % 4)
		if err == nil {
			s, err = s.Drop(old)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAKeyFileThatWasCutOffIsNoKeyFile(t *testing.T) {
	text := testSet().Encode()
	for n := range text {
		if s, err := ParseKeys(text[:n]); err == nil {
			t.Fatalf("its first %d of %d bytes are: %v", n, len(text), s)
		}
	}
}

func TestAMistakeInAKeyFileIsNamedByLineAndNeverQuoted(t *testing.T) {
	const (
		version = "xdptcp-keys 1\n"
		stamp   = "timestamp " + hexT + "\n"
		active  = "key 1 active " + hexA + "\n"
	)
	const other, third, fourth = "202122232425262728292a2b2c2d2e2f", "303132333435363738393a3b3c3d3e3f", "404142434445464748494a4b4c4d4e4f"
	for name, c := range map[string]struct{ text, want string }{
		"empty":                        {"", `line 1: the line "end" is missing`},
		"something else":               {"-----BEGIN PRIVATE KEY-----\n", "line 1: not a key file of xdptcp"},
		"keys before the version":      {"# x\n" + stamp + version, "line 2: not a key file"},
		"another version":              {"xdptcp-keys 2\n", "line 1: a version of the format that this xdptcp does not know"},
		"the version twice":            {version + version, "line 2: want"},
		"an unknown word":              {version + "password " + hexA + "\n", "line 2: want"},
		"a bare key":                   {version + hexA + "\n", "line 2: want"},
		"a word too few":               {version + "key 1 " + hexA + "\n", "line 2: want"},
		"a word too many":              {version + "timestamp " + hexT + " " + hexA + "\n", "line 2: want"},
		"words in another order":       {version + "key " + hexA + " 1 active\n", "line 2: a generation is a number from 0 to 3"},
		"generation 4":                 {version + "key 4 active " + hexA + "\n", "line 2: a generation is"},
		"a negative generation":        {version + "key -1 active " + hexA + "\n", "line 2: a generation is"},
		"a generation in hex":          {version + "key 0x1 active " + hexA + "\n", "line 2: a generation is"},
		"a generation with a zero":     {version + "key 01 active " + hexA + "\n", "line 2: a generation is"},
		"an unknown use":               {version + "key 1 next " + hexA + "\n", "line 2: a key is active or accepted"},
		"the key in the use's place":   {version + "key 1 " + hexA + " active\n", "line 2: a key is active or accepted"},
		"a short key":                  {version + stamp + "key 1 active " + hexA[1:] + "\n", "line 3: a key is 32 lower-case hex digits"},
		"a long key":                   {version + "timestamp " + hexA + "00\n", "line 2: a key is 32"},
		"capitals":                     {version + "timestamp " + strings.ToUpper(hexA) + "\n", "line 2: a key is 32"},
		"not hex":                      {version + "timestamp g" + hexA[1:] + "\n", "line 2: a key is 32"},
		"zeros":                        {version + "timestamp " + strings.Repeat("0", 32) + "\n", "line 2: a key of zeros"},
		"two timestamp keys":           {version + stamp + "timestamp " + hexA + "\n", "line 3: a second timestamp key"},
		"a generation twice":           {version + active + "key 1 accepted " + hexB + "\n", "line 3: a second key of generation 1"},
		"two active keys":              {version + active + "key 2 active " + hexB + "\n", "line 3: a second active key: generation 1 is active"},
		"a key twice":                  {version + active + "key 2 accepted " + hexA + "\n", "line 3: the same key"},
		"a key as timestamp key":       {version + active + "timestamp " + hexA + "\n", "line 3: the same key"},
		"the timestamp key as a key":   {version + stamp + "key 1 active " + hexT + "\n", "line 3: the same key"},
		"four keys":                    {version + active + "key 0 accepted " + other + "\nkey 2 accepted " + third + "\nkey 3 accepted " + fourth + "\n", "line 5: a key too many: at most 3"},
		"no timestamp key":             {version + active + "end\n", `line 3: the line "timestamp KEY" is missing`},
		"no key":                       {version + stamp + "end\n", "line 3: no key is active"},
		"no active key":                {version + stamp + "key 1 accepted " + hexA + "\nend\n", "line 4: no key is active"},
		"no end":                       {version + stamp + active, `line 4: the line "end" is missing: the file was cut off`},
		"no newline":                   {version + stamp + active + "end", "line 4: the line does not end"},
		"more after the end":           {version + stamp + active + "end\nkey 2 accepted " + hexB + "\n", `line 5: nothing may follow`},
		"two files, one after another": {version + stamp + active + "end\n" + version, `line 5: nothing may follow`},
	} {
		s, err := ParseKeys([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, s, err, c.want)
			continue
		}
		for _, secret := range []string{hexA, hexB, hexT, other, third, fourth} {
			if strings.Contains(strings.ToLower(err.Error()), secret[2:8]) {
				t.Errorf("%s: the error shows a key: %v", name, err)
			}
		}
	}
}

// keyFileAt writes a key file with a mode.
func keyFileAt(t *testing.T, path string, s KeySet, mode fs.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, s.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKeyFileThatOthersCanGetAtIsRefusedWithTheCommandThatMendsIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		if s, err := ReadKeyFile(keyFileAt(t, path, testSet(), mode)); err != nil || s != testSet() {
			t.Errorf("mode %#o: %v, %v", mode, s, err)
		}
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666} {
		_, err := ReadKeyFile(keyFileAt(t, path, testSet(), mode))
		if want := fmt.Sprintf("key file %s: mode %#o lets others at the keys; to mend it: chmod 600 %[1]s", path, mode); err == nil || err.Error() != want {
			t.Errorf("mode %#o: %v, want %q", mode, err, want)
		}
	}
	// A link may have any mode; what counts is where it leads.
	link := filepath.Join(dir, "link")
	if err := os.Symlink("keys", link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyFile(link); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a link to a file that all may read: %v", err)
	}
	keyFileAt(t, path, testSet(), 0o600)
	if s, err := ReadKeyFile(link); err != nil || s != testSet() {
		t.Errorf("a link: %v, %v", s, err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, 12345, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyFile(path); err == nil || !strings.Contains(err.Error(), "belongs to user 12345, who can change the keys; to mend it: chown 0 "+path) {
		t.Errorf("somebody else's file: %v", err)
	}
}

func TestWhatIsNoRegularFileIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	fifo, long, missing := filepath.Join(dir, "fifo"), filepath.Join(dir, "long"), filepath.Join(dir, "missing")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(long, []byte(strings.Repeat("#\n", keyFileMaxSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:         "not a regular file (d",
		fifo:        "not a regular file (p",
		"/dev/null": "not a regular file (D",
		long:        "longer than 16384 bytes",
		missing:     "no such file or directory; to make one: xdptcp keys generate " + missing,
	} {
		if _, err := ReadKeyFile(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// expectAlone checks that a directory has nothing but these names: no temporary file is left.
func expectAlone(t *testing.T, dir string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("%s has %v, want %v", dir, got, names)
	}
}

func TestAKeyFileIsCreatedSecretAndNeverInTheWayOfAnother(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	if err := CreateKeyFile(path, testSet()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	if s, err := ReadKeyFile(path); err != nil || s != testSet() {
		t.Errorf("%v, %v", s, err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keys", "link"} {
		if err := CreateKeyFile(filepath.Join(dir, name), generated(t)); err == nil || !strings.Contains(err.Error(), name+" exists: it is left as it is") {
			t.Errorf("where %s is: %v", name, err)
		}
	}
	if s, err := ReadKeyFile(path); err != nil || s != testSet() {
		t.Errorf("the file that was there: %v, %v", s, err)
	}
	expectAlone(t, dir, "keys", "link")
	if err := CreateKeyFile(filepath.Join(dir, "no", "keys"), testSet()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}

func TestReplacingFollowsALinkAndLeavesItALink(t *testing.T) {
	dir, there := t.TempDir(), t.TempDir()
	keyFileAt(t, filepath.Join(there, "keys"), generated(t), 0o400)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(there, "keys"), link); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceKeyFile(link, testSet()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	if s, err := ReadKeyFile(link); err != nil || s != testSet() {
		t.Errorf("%v, %v", s, err)
	}
	expectAlone(t, dir, "link")
	expectAlone(t, there, "keys")
	if err := ReplaceKeyFile(filepath.Join(dir, "missing"), testSet()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestAReaderOfAFileThatIsReplacedSeesTheOldOrTheNewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	sets := []KeySet{testSet(), generated(t)}
	if err := CreateKeyFile(path, sets[0]); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			seen := map[KeySet]int{}
			for {
				s, err := ReadKeyFile(path)
				if err != nil || s != sets[0] && s != sets[1] {
					t.Errorf("a reader got %v, %v", s, err)
					return
				}
				seen[s]++
				select {
				case <-done:
					if len(seen) < 2 {
						t.Error("a reader saw only one of the two: the test is blind")
					}
					return
				default:
				}
			}
		})
	}
	for i := range 100 {
		if err := ReplaceKeyFile(path, sets[(i+1)%2]); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	readers.Wait()
}
