"""Tells forges, mailboxes and chats of the results of projects, through the outbox."""
