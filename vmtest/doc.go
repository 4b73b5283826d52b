// SPDX-License-Identifier: Apache-2.0

// Package vmtest proves the whole: the real xdptcp binary on one end of a lab (see its folder lab), the
// kernel's own TCP on the other, and a tap on the wire between them.
//
//	main_test.go        builds the binary once
//	daemon_test.go      runs it: attach, ready line, metrics, status, the orderly end
//	client_test.go      what clients do: dial, fetch, transfer
//	wire_test.go        reads frames and sums their checksums, independently of the product's code
//	frames_test.go      makes frames that no kernel would send
//	impair_test.go      loses, delays, doubles and swallows frames on the client's side
//	tshark_test.go      has every recording judged by tshark
//	webtest             what HTTP and TLS must find in a listener
//
// The other files hold the tests, one topic each.
package vmtest
