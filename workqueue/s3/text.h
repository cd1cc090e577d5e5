/* s3_text.h - the text that S3 is spoken in: percent-encoding and the little XML there is. */
#ifndef WQ_S3_TEXT_H
#define WQ_S3_TEXT_H

#include <stddef.h>

/* Percent-encodes `in` as AWS signs it: all but letters, digits, "-_.~" and the bytes of `keep`.
 * 0, or -1 if it does not fit. */
int wq_s3_encode(char *out, size_t size, const char *in, const char *keep);

/* The text of the next element `name` (without attributes or children) at or behind `xml`, its
 * entities resolved. Where to go on, or NULL if there is none or it does not fit. */
const char *wq_s3_xml_next(const char *xml, const char *name, char *out, size_t size);

#endif
