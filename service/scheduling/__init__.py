"""Scheduling: which waiting rows run next and which share a batch. Pure: no torch, threads, asyncio or HTTP."""
