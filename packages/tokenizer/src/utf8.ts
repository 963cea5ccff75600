/**
 * Bytes at the end that begin a UTF-8 character which more bytes could complete (0 to 3). Bytes that can never become
 * a character do not count: a decoder shows them as replacement characters at once (Unicode, table 3-7).
 */
export function incompleteSuffixLength(bytes: Uint8Array): number {
  for (let length = 1; length <= 3 && length <= bytes.length; length++) {
    const lead = bytes[bytes.length - length]!;
    if ((lead & 0xc0) === 0x80) continue;
    if (length >= characterLength(lead)) return 0;
    return length === 1 || canFollow(lead, bytes[bytes.length - length + 1]!) ? length : 0;
  }
  return 0;
}

function characterLength(lead: number): number {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 1;
}

/** The second byte's range is narrower after four leads: it excludes overlong forms, surrogates and what exceeds U+10FFFF. */
function canFollow(lead: number, second: number): boolean {
  if (lead === 0xe0) return second >= 0xa0;
  if (lead === 0xed) return second <= 0x9f;
  if (lead === 0xf0) return second >= 0x90;
  if (lead === 0xf4) return second <= 0x8f;
  return true;
}
