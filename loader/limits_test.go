// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strings"
	"testing"
)

func TestALimitIsDividedByQueuesAndWindows(t *testing.T) {
	for _, c := range []struct {
		perSecond, queues int
		want              uint32
	}{
		{0, 1, 0}, {0, 16, 0}, {50_000, 1, 6711}, {50_000, 16, 419}, {100, 1, 13}, {100, 4, 3}, {1, 1, 1}, {1, 256, 1}, {2_147_483_647, 1, 288230376},
	} {
		if got := perWindow(c.perSecond, c.queues); got != c.want {
			t.Errorf("%d a second on %d queues: %d in a window of each, want %d", c.perSecond, c.queues, got, c.want)
		}
	}
}

func TestPrepareRefusesWhatIsOutOfRange(t *testing.T) {
	services := parse(t, ":80=echo")
	for want, o := range map[string]Options{
		"at most 10000000":      {Flows: MaxFlows + 1},
		"-1 replies per second": {Limits: Limits{Replies: -1}},
		"-5 opens per second":   {Limits: Limits{Opens: -5}},
	} {
		o.Services, o.Interface = services, "lo"
		if _, err := Prepare(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a refusal with %q", err, want)
		}
	}
}
