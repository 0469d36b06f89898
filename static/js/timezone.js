// The server shows times in the zone of the browser: core/time_zones.py reads this cookie.

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `timezone=${zone}; path=/; max-age=34560000; samesite=lax${secure}`;
}
