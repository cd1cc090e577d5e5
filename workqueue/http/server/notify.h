/* notify.h - tells systemd how the server is (sd_notify(3)): READY, STOPPING, STATUS, WATCHDOG. */
#ifndef WQ_HTTP_SERVER_NOTIFY_H
#define WQ_HTTP_SERVER_NOTIFY_H

/* Sends `text`, lines of NAME=VALUE, to the socket that NOTIFY_SOCKET names; nothing where it is
 * not set. From any thread; never waits. */
void wq_notify(const char *text);

/* How often the watchdog wants to hear of this process, by WATCHDOG_USEC; 0: never. */
unsigned wq_watchdog_ms(void);

#endif
