// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Rate is a flood's, in SYNs per second.
type Rate uint32

// Max is as fast as a thread can.
const Max Rate = math.MaxUint32

// topRate is the most that can be asked for by number; no CPU comes near it.
const topRate = 100_000_000

// ParseRate reads a rate: "0", "2500", "100k", "1M", "max".
func ParseRate(text string) (Rate, error) {
	if text == "max" {
		return Max, nil
	}
	digits, factor := text, uint64(1)
	if d, ok := strings.CutSuffix(text, "k"); ok {
		digits, factor = d, 1000
	} else if d, ok := strings.CutSuffix(text, "M"); ok {
		digits, factor = d, 1_000_000
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n*factor > topRate {
		return 0, fmt.Errorf("rate %q: want SYNs per second as in 0, 2500, 100k, 1M, up to 100M, or max", text)
	}
	return Rate(n * factor), nil
}

// String is the inverse of ParseRate.
func (r Rate) String() string {
	switch {
	case r == Max:
		return "max"
	case r > 0 && r%1_000_000 == 0:
		return fmt.Sprintf("%dM", r/1_000_000)
	case r > 0 && r%1000 == 0:
		return fmt.Sprintf("%dk", r/1000)
	}
	return strconv.Itoa(int(r))
}

// MarshalText makes JSON show a rate as String does.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRate.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}
