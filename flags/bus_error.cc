// Turns SIGBUS, the signal of a mapped file that shrank, into an error message
// and exit status 1.
#include "flags/bus_error.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

namespace h2o {
namespace {

void Print(const char* text) {
  // Nothing can be done about an error here.
  if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

void OnBusError(int) {
  Print(program_invocation_short_name);
  Print(
      ": DATA_LOSS: a file of the model shrank, or could not be read, while it "
      "was loaded\n");
  _exit(1);
}

}  // namespace

void ReportBusErrors() {
  struct sigaction action = {};
  action.sa_handler = OnBusError;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace h2o
