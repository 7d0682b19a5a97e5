// Delays what comes into a network namespace, and loses some of it: a stand-in
// for netem, which not every kernel has.
//
//   iptables -A INPUT -j NFQUEUE --queue-num 0 --queue-bypass
//   netdelay QUEUE DELAY_US LOSS_PERMILLE SEED
//
// Packets wait in user space (NFQUEUE) until their time.  The same seed loses
// the same packets, counted as they come.
#include <arpa/inet.h>
#include <sys/socket.h>
// (netfilter's headers need the two above first.)
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>

enum { kRing = 65536 };  // a power of two

struct Waiting {
  uint32_t id;
  int64_t due_ns;
};

struct Line {
  struct Waiting ring[kRing];
  unsigned head, tail;  // packets [tail, head) wait
  int64_t delay_ns;
  int loss_permille;
};
static struct Line line;

static int64_t NowNs(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int OnPacket(struct nfq_q_handle* queue, struct nfgenmsg* message,
                    struct nfq_data* data, void* unused) {
  (void)message;
  (void)unused;
  const uint32_t id = ntohl(nfq_get_msg_packet_hdr(data)->packet_id);
  if (rand() % 1000 < line.loss_permille) {
    return nfq_set_verdict(queue, id, NF_DROP, 0, NULL);
  }
  line.ring[line.head++ % kRing] =
      (struct Waiting){id, NowNs() + line.delay_ns};
  return 0;
}

// The timer rings when the first packet is due; at 0 it is off.
static void SetTimer(int timer) {
  struct itimerspec at = {{0, 0}, {0, 0}};
  if (line.tail != line.head) {
    const int64_t due = line.ring[line.tail % kRing].due_ns;
    at.it_value.tv_sec = due / 1000000000;
    at.it_value.tv_nsec = due % 1000000000;
  }
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void LetGo(struct nfq_q_handle* queue) {
  const int64_t now = NowNs();
  while (line.tail != line.head &&
         line.ring[line.tail % kRing].due_ns <= now) {
    nfq_set_verdict(queue, line.ring[line.tail++ % kRing].id, NF_ACCEPT, 0,
                    NULL);
  }
}

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  line.delay_ns = atoll(argv[2]) * 1000;
  line.loss_permille = atoi(argv[3]);
  srand((unsigned)atoi(argv[4]));
  struct nfq_handle* handle = nfq_open();
  struct nfq_q_handle* queue =
      handle ? nfq_create_queue(handle, (uint16_t)atoi(argv[1]), OnPacket, NULL)
             : NULL;
  if (queue == NULL) {
    perror("no queue");
    return 1;
  }
  nfq_set_mode(queue, NFQNL_COPY_META, 0);
  nfq_set_queue_maxlen(queue, kRing);
  nfq_set_queue_flags(queue, NFQA_CFG_F_FAIL_OPEN, NFQA_CFG_F_FAIL_OPEN);
  const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct pollfd waits[2] = {{nfq_fd(handle), POLLIN, 0}, {timer, POLLIN, 0}};
  puts("ready");
  fflush(stdout);
  static char bytes[65536];
  while (1) {
    SetTimer(timer);
    poll(waits, 2, -1);
    ssize_t got;
    while ((got = recv(waits[0].fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
      nfq_handle_packet(handle, bytes, (int)got);
    }
    LetGo(queue);
  }
}
