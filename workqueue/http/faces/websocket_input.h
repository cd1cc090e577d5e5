/* websocket_input.h - what wslay calls back. */
#ifndef WQ_HTTP_FACES_WEBSOCKET_INPUT_H
#define WQ_HTTP_FACES_WEBSOCKET_INPUT_H

#include "workqueue/http/faces/websocket_connection.h"

extern const struct wslay_event_callbacks wq_websocket_callbacks;

#endif
