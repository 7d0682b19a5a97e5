// How many files, sockets included, this process may have open.
#pragma once

namespace h2o {

// Raises the limit on open files to what the system grants without a
// privilege, and returns it.
int RaiseOpenFileLimit();

// Files that are open now.
int CountOpenFiles();

}  // namespace h2o
