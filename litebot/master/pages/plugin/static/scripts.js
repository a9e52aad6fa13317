// Keeps parts of litebot's pages up to date, and shows the pages within Buildbot's.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const ROUTE = "#/pages/";
  const inBuildbot = "BuildbotPluginSupport" in window;

  // fetch() takes no address with a password, as that of the page may be.
  const get = (url, options = {}) =>
    fetch(new URL(url, location.origin + location.pathname), {
      credentials: "same-origin",
      ...options,
      headers: inBuildbot ? {"X-Requested-With": "litebot"} : {},
    });

  // The address of the page that is shown.
  const address = () =>
    inBuildbot ? "litebot/" + location.hash.slice(ROUTE.length) : location.pathname + location.search;

  const parse = text => new DOMParser().parseFromString(text, "text/html");

  // Parts with data-live are read anew while somebody looks, and while nobody uses them.
  const refresh = async () => {
    const parts = [...document.querySelectorAll("[data-live]")];
    if (!parts.length || document.hidden) return;
    const shown = address();
    const answer = await get(shown);
    if (!answer.ok || address() !== shown) return;
    const page = parse(await answer.text());
    for (const part of parts) {
      const fresh = page.getElementById(part.id);
      if (fresh && fresh.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) {
        part.innerHTML = fresh.innerHTML;
      }
    }
  };
  const keepFresh = () =>
    setTimeout(() => refresh().catch(() => {}).finally(keepFresh), EVERY_MS);
  keepFresh();

  if (!inBuildbot) return;

  const {createElement, useEffect, useRef} = React;

  // Shows an answer of the master; returns the address that it came from.
  const show = async (answer, box) => {
    const body = parse(await answer.text()).body;
    box.replaceChildren(...body.childNodes);
    const title = box.querySelector("[data-title]");
    if (title) document.title = title.dataset.title;
    box.focus({preventScroll: true});
    window.scrollTo(0, 0);
    return answer.url;
  };

  const send = async (event, box) => {
    const form = event.target;
    if (form.method !== "post") return;
    event.preventDefault();
    const body = new URLSearchParams(new FormData(form, event.submitter));
    const answer = await get(form.getAttribute("action"), {method: "POST", body});
    if (answer.redirected) {
      const route = ROUTE + answer.url.split("/litebot/")[1];
      if (location.hash !== route) location.hash = route;
    }
    await show(answer, box);
  };

  const Pages = () => {
    const {key, pathname, search} = ReactRouterDOM.useLocation();
    const box = useRef(null);
    useEffect(() => {
      let isOver = false;
      get(address()).then(answer => isOver || show(answer, box.current));
      return () => { isOver = true; };
    }, [key, pathname, search]);
    return createElement("main", {
      ref: box,
      tabIndex: -1,
      className: "lb-within container-fluid",
      onSubmit: event => { send(event.nativeEvent, box.current); },
    });
  };

  // A page without Buildbot's around it; a login from there leads back here.
  const Alone = () => {
    useEffect(() => { location.replace("litebot/" + location.hash.slice("#/litebot/".length)); });
    return null;
  };

  const icon = createElement(
    "svg",
    {width: "1em", height: "1em", viewBox: "0 0 16 16", fill: "currentColor", "aria-hidden": true},
    createElement("path", {d: "M1 14V8h3v6zM6.5 14V2h3v12zM12 14V5h3v9z"}),
  );

  BuildbotPluginSupport.buildbotSetupPlugin(reg => {
    reg.registerMenuGroup({
      name: "litebot", parentName: null, caption: "Overview", icon, order: 2, route: "/pages/",
    });
    reg.registerRoute({route: "pages/*", group: "litebot", element: () => createElement(Pages)});
    reg.registerRoute({route: "litebot/*", group: null, element: () => createElement(Alone)});
  });
})();
