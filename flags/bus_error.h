// What a program says when a file that it maps is not there any more.
#pragma once

namespace h2o {

// Checkpoints are mapped: where a file shrinks while it is read, or its disk
// fails, the system sends SIGBUS.  From here on that ends the program with one
// line on stderr and 1.
void ReportBusErrors();

}  // namespace h2o
