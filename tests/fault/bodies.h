/* All bodies: main.c has the table. */
#ifndef PROA_TESTS_FAULT_BODIES_H
#define PROA_TESTS_FAULT_BODIES_H

/* net.c */
void body_echo(void);
void body_echo_small_pool(void);
void body_mail(void);
void body_datagrams(void);
void body_control(void);
void body_flush(void);
void body_foreign_sockets(void);
void body_foreign_pipe(void);
void body_loans(void);
void body_late(void);
void body_many(void);
void body_cancels(void);

/* various.c */
void body_files(void);
void body_edges(void);
void body_sendfile(void);
void body_chains(void);
void body_timers(void);
void body_jobs(void);
void body_resolve(void);
void body_processes(void);
void body_kill(void);
void body_signals(void);
void body_fork(void);
void body_outer_loop(void);

/* ... that Windows has no likes of */
void body_positions(void);
void body_gathers(void);
void body_terminal(void);
void body_packets(void);
void body_overlaps(void);
void body_older(void);
void body_cold(void);

#endif
