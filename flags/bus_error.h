// Reports SIGBUS: the error of a memory-mapped file that became unreadable.
#pragma once

namespace h2o {

// Checkpoints are memory-mapped.  If a file shrinks while it is read, or its
// disk fails, the system sends SIGBUS.  After this call SIGBUS ends the program
// with one line on stderr and exit status 1.
void ReportBusErrors();

}  // namespace h2o
