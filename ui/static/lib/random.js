// Random ids; crypto.randomUUID is missing where the page is served without TLS to another host.
export const randomId = () => crypto.randomUUID?.() ?? Math.random().toString(36).slice(2);
