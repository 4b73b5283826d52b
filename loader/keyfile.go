// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
)

// A key file is text. Lines that are empty or begin with # mean nothing; the others are, in this order
// but for the keys among themselves:
//
//	xdptcp-keys 1                                       the format's version
//	timestamp 00112233445566778899aabbccddeeff          the timestamp key
//	key 0 active 00112233445566778899aabbccddeeff       a key: generation, active or accepted, 16 bytes
//	key 1 accepted 00112233445566778899aabbccddeeff
//	end                                                 so that a file that was cut off is no key file
const (
	keyFileHeader = `# The keys of xdptcp's cookies. Whoever knows them can forge connections: mode 0600.
# All hosts that share an address have the same file. Change it with
# xdptcp keys add, activate and drop: see xdptcp keys --help.
`
	keyFileVersion = "xdptcp-keys 1"
	keyFileMaxSize = 16 << 10 // bytes; comments are allowed, novels are not
)

// Encode is the set as the text of a key file: the only way to get the keys out.
func (s KeySet) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\ntimestamp %x\n", keyFileHeader, keyFileVersion, keyBytes(s.keys.Timestamp))
	for _, k := range s.Keys() {
		fmt.Fprintf(&b, "key %d %s %x\n", k.Generation, k.Use, keyBytes(s.keys.Key[k.Generation]))
	}
	b.WriteString("end\n")
	return b.Bytes()
}

// ParseKeys reads the text of a key file. Its errors name the line and what is wrong with it, but never
// repeat any of it: where something else should be, there may be a key.
func ParseKeys(text []byte) (KeySet, error) {
	var p keyParser
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if err := p.line(string(line)); err != nil {
			return KeySet{}, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if !p.end {
		return KeySet{}, fmt.Errorf(`line %d: the line "end" is missing: the file was cut off`, n+1)
	}
	return p.set, nil
}

type keyParser struct {
	set                             KeySet
	version, timestamp, active, end bool // the line was there
}

func (p *keyParser) line(line string) error {
	if !strings.HasSuffix(line, "\n") {
		return errors.New("the line does not end: the file was cut off")
	}
	f := strings.Fields(line)
	switch {
	case len(f) == 0 || f[0][0] == '#':
		return nil
	case p.end:
		return errors.New(`nothing may follow the line "end"`)
	case !p.version:
		if f[0] != "xdptcp-keys" || len(f) != 2 {
			return fmt.Errorf("not a key file of xdptcp: want %q first", keyFileVersion)
		}
		if strings.Join(f, " ") != keyFileVersion {
			return fmt.Errorf("a version of the format that this xdptcp does not know: want %q", keyFileVersion)
		}
		p.version = true
		return nil
	case f[0] == "timestamp" && len(f) == 2:
		return p.timestampLine(f[1])
	case f[0] == "key" && len(f) == 4:
		return p.keyLine(f[1], f[2], f[3])
	case f[0] == "end" && len(f) == 1:
		return p.endLine()
	}
	return errors.New(`want "timestamp KEY", "key GENERATION active|accepted KEY" or "end"`)
}

func (p *keyParser) timestampLine(text string) error {
	if p.timestamp {
		return errors.New("a second timestamp key: there is one")
	}
	p.timestamp = true
	return p.key(text, &p.set.keys.Timestamp)
}

func (p *keyParser) keyLine(generation, use, text string) error {
	keys := &p.set.keys
	g, err := strconv.Atoi(generation)
	switch {
	case err != nil || g < 0 || g >= len(keys.Key) || strconv.Itoa(g) != generation:
		return fmt.Errorf("a generation is a number from 0 to %d", len(keys.Key)-1)
	case p.set.has(g):
		return fmt.Errorf("a second key of generation %d", g)
	case bits.OnesCount32(keys.Valid) == maxKeys:
		return fmt.Errorf("a key too many: at most %d are accepted at a time", maxKeys)
	}
	switch {
	case use == "active" && p.active:
		return fmt.Errorf("a second active key: generation %d is active", keys.Current)
	case use == "active":
		p.active = true
		keys.Current = uint32(g)
	case use != "accepted":
		return errors.New("a key is active or accepted")
	}
	if err := p.key(text, &keys.Key[g]); err != nil {
		return err
	}
	keys.Valid |= 1 << g
	return nil
}

// key reads a key that no other line has.
func (p *keyParser) key(text string, into *bpf.SiphashKey) error {
	k, err := parseKey(text)
	if err != nil {
		return err
	}
	for _, other := range append(p.set.keys.Key[:], p.set.keys.Timestamp) {
		if k == other {
			return errors.New("the same key as in a line above: each must be a secret of its own")
		}
	}
	*into = k
	return nil
}

func (p *keyParser) endLine() error {
	switch {
	case !p.timestamp:
		return errors.New(`the line "timestamp KEY" is missing`)
	case !p.active:
		return errors.New("no key is active")
	}
	p.end = true
	return nil
}

// ReadKeyFile reads a key file that is a secret: a regular file (a symbolic link to one will do) of
// root or of this process's user, without any permission for group and others.
func ReadKeyFile(path string) (KeySet, error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return KeySet{}, fmt.Errorf("key file: %w; to make one: xdptcp keys generate %s", err, path)
	}
	if err != nil {
		return KeySet{}, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, whatever the path leads to by now
	if err != nil {
		return KeySet{}, fmt.Errorf("key file: %w", err)
	}
	if err := checkSecret(path, info); err != nil {
		return KeySet{}, err
	}
	text, err := io.ReadAll(io.LimitReader(f, keyFileMaxSize+1))
	if err != nil {
		return KeySet{}, fmt.Errorf("key file: %w", err)
	}
	if len(text) > keyFileMaxSize {
		return KeySet{}, fmt.Errorf("key file %s: longer than %d bytes: not a key file", path, keyFileMaxSize)
	}
	s, err := ParseKeys(text)
	if err != nil {
		return KeySet{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return s, nil
}

func checkSecret(path string, info os.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("key file %s: not a regular file (%v)", path, info.Mode().Type())
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("key file %s: mode %#o lets others at the keys; to mend it: chmod 600 %[1]s", path, perm)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 && int(uid) != os.Geteuid() {
		return fmt.Errorf("key file %s: belongs to user %d, who can change the keys; to mend it: chown %d %[1]s", path, uid, os.Geteuid())
	}
	return nil
}

// CreateKeyFile writes a key file where nothing is yet.
func CreateKeyFile(path string, s KeySet) error {
	temp, err := writeBeside(path, s)
	if err != nil {
		return err
	}
	err = os.Link(temp, path) // unlike a rename, it never replaces
	_ = os.Remove(temp)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists: it is left as it is; choose another name, or remove it first", path)
	}
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	return syncDirectory(path)
}

// ReplaceKeyFile puts another key file in the place of one. Who reads meanwhile sees the one or the
// other, whole. Where path is a symbolic link, the file that it leads to is replaced.
func ReplaceKeyFile(path string, s KeySet) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	temp, err := writeBeside(path, s)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("key file: %w", err)
	}
	return syncDirectory(path)
}

// writeBeside writes the file under another name in the same directory, down to the disk.
func writeBeside(path string, s KeySet) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("key file: %w", err)
	}
	_, err = f.Write(s.Encode())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", fmt.Errorf("key file: %w", err)
	}
	return f.Name(), nil
}

// syncDirectory makes a new name outlive a power failure.
func syncDirectory(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if err = errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("key file: %s is written, but may not outlive a power failure: %w", path, err)
	}
	return nil
}
