// Two buttons of the theme have a label that is not what they show: "Search Ctrl+K", or the title of an icon.
// A reader who speaks to the page says what is seen; so the buttons are named by what they show.
for (const button of document.querySelectorAll(".theme-switch-button, .search-button-field")) {
  button.setAttribute("aria-description", button.getAttribute("aria-label"));
  button.removeAttribute("aria-label");
}
