/* overview.js - what the page tells Overview, which it is a frame of: which documents to list. */

const origin = new URLSearchParams(location.search).get('origin') || '';

/* Documents as Overview takes them: the lower halves of their ids as bits, the first the highest. */
function bitsOf(ids) {
  const lower = ids.map(id => Number(BigInt(id) & 0xffffffffn));
  const bytes = new Uint8Array(Math.floor(Math.max(...lower) / 8) + 1);
  for (const bit of lower) bytes[bit >> 3] |= 0x80 >> (bit & 7);
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function tell(params) {
  if (window.parent === window || !origin) return false;
  try {
    window.parent.postMessage({ call: 'setDocumentListParams', args: [params] }, origin);
    return true;
  } catch { // an origin that is none
    return false;
  }
}

/* Has Overview list exactly what was found; false: we are not in Overview. */
export function showInOverview(found, name) {
  const bits = found.ids ? bitsOf(found.ids) : found.documentIdsBitSetBase64, quoted = `“${name.replaceAll('%', '')}”`;
  if (bits === null || bits === undefined) return false;
  const title = found.ids ? `%s: ${quoted}` : found.complete ? `%s matching ${quoted}` : `%s of those matching ${quoted}`;
  return tell({ documentIdsBitSetBase64: bits, title });
}

/* Has it list all documents again. */
export const showNothingInOverview = () => tell({});
