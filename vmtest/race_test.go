// SPDX-License-Identifier: Apache-2.0

//go:build race

package vmtest

// raceBuild: the test binary has the race detector in it, so the product gets it too.
const raceBuild = true
