"""The HTTP server: OpenAI's API over the scheduler, and the page."""
