// What every program does first, so that it ends in one line, whatever ends it.
#pragma once

#include "absl/status/status.h"

namespace h2o {

// From here on, what is no Status ends the program with one line on stderr and
// exit status 1 as well: SIGBUS, the signal of a mapped file that shrank, and
// memory or threads that the system does not grant, to us or to a library.  A
// reader that is gone (SIGPIPE), or a file that may not grow (SIGXFSZ), ends
// nothing; the write fails.  Also tells Abseil to lock fast, and
// OpenSSL to keep its locks to the very end.  Called before any thread is made.
void PrepareProcess();

// Whether the system grants `count` threads.  For programs that use gRPC, which
// may wait for ever for a thread that it did not get.
// Errors: RESOURCE_EXHAUSTED with the number that it grants.
absl::Status CheckThreads(int count);

}  // namespace h2o
