// What every program does first, so that it ends in one line, whatever ends it.
#pragma once

namespace h2o {

// From here on, what is no Status ends the program with one line on stderr and
// exit status 1 as well: SIGBUS, the signal of a mapped file that shrank, and
// memory or threads that the system does not grant, to us or to a library.  A
// reader that is gone (SIGPIPE), or a file that may not grow (SIGXFSZ), ends
// nothing; the write fails.  Called before any thread is made.
void PrepareProcess();

}  // namespace h2o
