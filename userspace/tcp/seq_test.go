// SPDX-License-Identifier: Apache-2.0

package tcp

import "testing"

func TestSequenceNumbersWrap(t *testing.T) {
	tests := []struct {
		a, b Seq
		less bool
		sub  int32
	}{
		{1, 2, true, -1},
		{2, 1, false, 1},
		{7, 7, false, 0},
		{0xffffffff, 0, true, -1},
		{0, 0xffffffff, false, 1},
		{0xfffffff0, 0x10, true, -0x20},
		{0, 0x7fffffff, true, -0x7fffffff},
		{0x80000001, 0, true, -0x7fffffff},
	}
	for _, tt := range tests {
		if got := tt.a.Less(tt.b); got != tt.less {
			t.Errorf("%#x < %#x: %v", tt.a, tt.b, got)
		}
		if got := tt.a.LessEq(tt.b); got != (tt.less || tt.a == tt.b) {
			t.Errorf("%#x <= %#x: %v", tt.a, tt.b, got)
		}
		if got := tt.a.Sub(tt.b); got != tt.sub {
			t.Errorf("%#x - %#x = %d, want %d", tt.a, tt.b, got, tt.sub)
		}
		if got := tt.b.Add(int(tt.sub)); got != tt.a {
			t.Errorf("%#x + %d = %#x, want %#x", tt.b, tt.sub, got, tt.a)
		}
	}
}

func TestAWindowMayWrap(t *testing.T) {
	tests := []struct {
		s, left Seq
		size    uint32
		want    bool
	}{
		{10, 10, 1, true},
		{11, 10, 1, false},
		{9, 10, 1, false},
		{10, 10, 0, false},
		{5, 0xfffffffe, 10, true},
		{8, 0xfffffffe, 10, false},
		{0xfffffffd, 0xfffffffe, 10, false},
	}
	for _, tt := range tests {
		if got := tt.s.InWindow(tt.left, tt.size); got != tt.want {
			t.Errorf("%#x in the window of %d from %#x: %v", tt.s, tt.size, tt.left, got)
		}
	}
}
